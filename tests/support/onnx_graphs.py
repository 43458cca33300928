"""ONNX files of packed networks, run as written by onnxruntime or onnx, and node by node."""

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import plain_reader
from micronet.artifact.interchange import onnx_model
from micronet.artifact.interchange.dialects import Qdq, Qonnx
from packed_networks import content_of

DIALECTS = {
    "4 bits": lambda: Qdq(nibbles=True),
    "8 bits": lambda: Qdq(nibbles=False),
    "qonnx": Qonnx,
}
# Half a unit in the last place of 1.
EPS = 2.0**-24


def session(content, *, as_written=False, optimized=None):
    """onnxruntime on one thread; by default with all that it does to a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content, images, **options):
    return session(content, **options).run(["output"], {"images": images.numpy()})[0]


class Quant(OpRun):
    """QONNX's operator as its page defines it (intquant_v1.md)."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zeropt, bitwidth, signed=None, narrow=None, rounding_mode=None):
        assert rounding_mode == "ROUND" and float(bitwidth) == int(bitwidth) > 0
        assert all(v.ndim in (0, x.ndim) for v in (scale, zeropt))
        assert not (bitwidth == 1 and signed) and (scale > 0).all()
        top = 2 ** (bitwidth - 1) - 1 if signed else 2**bitwidth - 1 - narrow
        low = -(2 ** (bitwidth - 1)) + narrow if signed else 0
        codes = np.round(np.clip(x / scale + zeropt, low, top))
        return (((codes - zeropt) * scale).astype(np.float32),)


def values(file, dialect, images):
    """What every node of a packed file gives in its ONNX graph, as it is written."""
    writer = onnx_model._Writer(file, DIALECTS[dialect]())
    model = writer.model()
    names = ["output" if i == file.document.output else n for i, n in enumerate(writer._names)]
    feeds = {"images": images.numpy()}
    if dialect == "qonnx":
        evaluator = ReferenceEvaluator(model, new_ops=[Quant])
        found = evaluator.run(None, feeds, intermediate=True)
        return [found[name] for name in names]
    for name in names[1:]:
        if name != "output":
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    runs = session(model.SerializeToString(), as_written=True)
    return [images.numpy(), *runs.run(names[1:], feeds)]


def check_nodes(file, dialect, images):
    """Hold each node to the page of the format, its inputs being those that it had."""
    document, tensors = plain_reader.load(content_of(file))
    found = values(file, dialect, images)
    for index, (node, y) in enumerate(zip(document["nodes"], found, strict=True)):
        inputs = [found[i] for i in node.get("inputs", ())]
        assert y.dtype == np.float32
        if node["kind"] in ("conv", "linear"):
            check_layer(node["layer"], document, tensors, *inputs, y)
        elif node["kind"] == "quantize":
            check_codes(node, tensors, *inputs, y)
        elif node["kind"] != "input":
            if node.get("function") == "relu6" and is_cut(index, document, tensors):
                # Codes of 6 and of all above it are the same.
                y = np.minimum(y, np.float32(6))
            check_floats(node, inputs, y)


def is_cut(index, document, tensors):
    """Whether all that read a node give 6 their highest code."""
    for reader in (n for n in document["nodes"] if index in n.get("inputs", ())):
        if reader["kind"] != "quantize":
            return False
        scale, zero = plain_reader.quantizer(reader, tensors)
        if np.rint(6 * scale) + zero < reader["levels"] - 1:
            return False
    return True


def check_codes(node, tensors, x, y):
    """Codes are the page's, but where ``S x + z`` lies as near to a half as floats can tell."""
    scale, zero = plain_reader.quantizer(node, tensors)
    wide = scale.astype(np.float64) * x
    wanted = np.clip(np.rint(scale * x + np.float32(zero)), 0, node["levels"] - 1)
    codes = np.rint(y.astype(np.float64) * scale) + zero
    assert codes.min() >= 0 and codes.max() <= node["levels"] - 1
    # Three roundings of the quotient or the product, and one of the sum.
    near = abs(wide - np.floor(wide) - 0.5) <= 4 * EPS * (abs(wide) + abs(zero) + 1)
    assert (abs(codes - wanted) <= near).all()
    exact = (codes - zero) / scale.astype(np.float64)
    assert (abs(y - exact) <= 4 * EPS * abs(exact)).all()


def check_layer(name, document, tensors, x, y):
    """Values of a layer are those of sums without rounding, up to the rounding of so many sums."""
    layer = document["layers"][name]
    weights = plain_reader.weights(name, layer, tensors).astype(np.float64)
    wide = (-1, *(1,) * (weights.ndim - 1))
    scale = tensors.get(f"{name}.weight_scale", np.ones(1)).astype(np.float64).reshape(wide)
    if layer["sums"] == "integer":
        # All calls of a layer read one quantizer.
        node = next(n for n in document["nodes"] if n.get("layer") == name)
        source, _ = plain_reader.quantizer(document["nodes"][node["inputs"][0]], tensors)
        weights = weights * scale * source.astype(np.float64)
    else:
        weights = weights * scale if layer["sums"] == "scaled" else weights / scale
    if (norm := tensors.get(f"{name}.norm_scale")) is not None:
        weights = weights * norm.reshape(wide)
    bias = tensors.get(f"{name}.bias", np.zeros(len(weights), np.float32)).astype(np.float64)
    x, w, b = (torch.from_numpy(np.ascontiguousarray(t)).double() for t in (x, weights, bias))
    wanted, size = product(layer, x, w, b), product(layer, x.abs(), w.abs(), b.abs())
    depth = w[0].numel()
    assert (abs(torch.from_numpy(y).double() - wanted) <= (depth + 8) * 2 * EPS * size).all(), name


def product(layer, x, w, b):
    if "groups" not in layer:
        return F.linear(x, w, b)
    top, left, bottom, right = layer["padding"]
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, w, b, layer["stride"], 0, layer["dilation"], layer["groups"])


def check_floats(node, inputs, y):
    """Float nodes move values or round once; engines compute functions and means as they like."""
    rows = zip(*inputs, strict=True)
    wanted = np.stack([plain_reader.PLAIN[node["kind"]](node, *row) for row in rows])
    function, size = node.get("function"), abs(wanted)
    bound = 0.0
    if function == "mean":
        flat = inputs[0].reshape(*inputs[0].shape[:2], -1)
        bound = (flat.shape[-1] + 2) * EPS * abs(flat).mean(-1)[..., None, None]
    elif function in ("sigmoid", "swish", "hardswish", "hardsigmoid"):
        # Engines' sigmoids are good to a few units in the last place of 1, times x in swish.
        bound = 16 * EPS * np.maximum(abs(inputs[0]), 1)
    else:
        size = 0 * size
    assert y.shape == wanted.shape and (abs(y - wanted) <= bound + 0 * size).all(), node["kind"]
