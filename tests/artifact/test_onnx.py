"""ONNX and QONNX files hold the packed network: each node, and onnxruntime's answers."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from micronet.artifact.interchange import onnx_model, operands
from micronet.models import architectures
from micronet.quantization.quantize import LayerBits
from micronet.utils.errors import UserError
from onnx_graphs import DIALECTS, check_nodes, run
from packed_by_hand import integer_network
from packed_networks import FOUR, PRECISIONS, Everything, compressed, network, packed, read


def images_for(shape, count, rng):
    """Images of several sizes, so that quantizers saturate on both sides."""
    factors = torch.tensor([0.3, 1.0, 4.0, 20.0]).repeat(count)[:count]
    return torch.randn(count, *shape, generator=rng) * factors.view(-1, 1, 1, 1)


@pytest.mark.parametrize("bits", PRECISIONS, ids=str)
def test_every_node_computes_what_the_page_of_the_format_says(bits, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = Everything()
    bits = dict.fromkeys(architectures.layers(model), bits)
    file = packed(compressed(model, (3, 13, 13), bits, sparsity=0.6), (3, 13, 13))
    for dialect in DIALECTS:
        check_nodes(file, dialect, images_for((3, 13, 13), 4, rng))


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("efficientnet-micro", 33),
        ("mobilenet_v2 of five blocks", 33),
        ("timm:mobilenetv3_small_050", 33),
    ],
)
def test_every_node_of_networks(arch, size, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    file = packed(network(arch, size), (3, size, size))
    for dialect in DIALECTS:
        check_nodes(file, dialect, images_for((3, size, size), 2, rng))


def test_normalizations_that_turn_signs_and_that_are_zero(rng):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))
    model = compressed(model, (3, 9, 9), {"0": FOUR, "2": LayerBits(8, 8)})
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0, 0.0, -0.5, 2.0, -0.0]))
    file = packed(model, (3, 9, 9))
    assert (file.contents.tensors["0.weight_scale"] < 0).any()
    for dialect in DIALECTS:
        check_nodes(file, dialect, images_for((3, 9, 9), 4, rng))
    found = operands.of_layer(file, "0", operands.of_input(file, file.document.nodes[1]))
    assert (found.affine.scale > 0).all() and not found.integers[[2, 5]].any()


@pytest.mark.parametrize(
    ("high", "head", "op"),
    [
        (6.0, nn.Identity(), "Relu"),
        (2.0, nn.Identity(), "Relu"),
        (8.0, nn.Identity(), "Clip"),
        (6.0, nn.MaxPool2d(2), "Clip"),
    ],
)
def test_a_relu6_is_a_relu_where_a_quantizer_cuts_off_as_much(high, head, op, rng):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), head, nn.Conv2d(8, 4, 1))
    model = compressed(model, (3, 9, 9), {"3": FOUR}, sparsity=0)
    model[3].input_quantizer.start_from(0.0, high, 1)
    file = packed(model, (3, 9, 9))
    for dialect in DIALECTS:
        check_nodes(file, dialect, images_for((3, 9, 9), 4, rng))
    graph, _ = types_of(file)
    assert graph.graph.node[1].op_type == op


def types_of(file, **options):
    model = onnx.load_from_string(onnx_model.to_bytes(file, **options))
    kinds = {c.name: onnx.TensorProto.DataType.Name(c.data_type) for c in model.graph.initializer}
    return model, kinds


def test_types_are_the_smallest_that_hold_the_levels():
    def kinds(bits, **options):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        model = compressed(model, (3, 9, 9), {"0": bits, "2": bits}, sparsity=0)
        _, found = types_of(packed(model, (3, 9, 9)), **options)
        return found["2.weight.codes"], found["2.input.zero_point"]

    torch.manual_seed(0)
    assert kinds(LayerBits(4, 4)) == ("UINT4", "UINT4")
    assert kinds(LayerBits(4, 4, symmetric=True)) == ("INT4", "UINT4")
    # Five levels lie within -4 and 4 of zero.
    assert kinds(LayerBits(2.4, 3)) == ("INT4", "UINT4")
    assert kinds(LayerBits(5, 4.1)) == ("INT8", "UINT8")
    assert kinds(LayerBits(8, 8)) == ("UINT8", "UINT8")
    assert kinds(LayerBits(8, 8, symmetric=True)) == ("INT8", "UINT8")
    assert kinds(LayerBits(4, 4), int8=True) == ("INT8", "UINT8")
    assert kinds(LayerBits(2.4, 3), int8=True) == ("INT8", "UINT8")


def test_models_are_of_the_oldest_operators_that_do():
    file = packed(network("efficientnet-micro", 32), (3, 32, 32))
    for options, opset in (({}, 21), ({"int8": True}, 14), ({"qonnx": True}, 14)):
        content = onnx_model.to_bytes(file, **options)
        assert content == onnx_model.to_bytes(file, **options)
        model, kinds = types_of(file, **options)
        assert model.opset_import[0].version == opset
        assert ("UINT4" in kinds.values()) == (opset == 21)
        assert {p.key for p in model.metadata_props} == {"arch", "packed_sha256"}
        domains = {node.domain for node in model.graph.node} - {""}
        assert domains == ({"qonnx.custom_op.general"} if options.get("qonnx") else set())


def nearly(found, wanted):
    """Logits up to float rounding, of most images: a code next to a half changes all of one."""
    difference = abs(found - wanted.numpy()).max(1)
    return np.median(difference) <= 2.0**-16 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet20", 32),
        ("mobilenetv2_cifar", 32),
        ("resnet10", 48),
        ("efficientnet-b0 of half its depth", 48),
    ],
)
def test_onnxruntime_gives_the_networks_logits(arch, size, tmp_path, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = network(arch, size)
    file = packed(model, (3, size, size))
    images = torch.randn(9, 3, size, size, generator=rng)
    with torch.no_grad():
        wanted = model(images)
    for int8 in (False, True):
        content = onnx_model.to_bytes(file, int8=int8)
        assert nearly(run(content, images, as_written=True), wanted)
        # With integer kernels it rounds biases, which is left to it; of four bits it has none.
        found = run(content, images, optimized=tmp_path / "optimized.onnx")
        assert found.shape == wanted.shape and np.isfinite(found).all()
        assert int8 or nearly(found, wanted)
        assert run(content, images[:1]).shape == (1, *wanted.shape[1:])
        ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert (ops["QLinearConv"] > 0) == int8


def test_integer_kernels_without_biases_give_the_same_codes(tmp_path, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    layers = [nn.Conv2d(c, 16, 3, padding=1, bias=False) for c in (3, 16, 16)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    bits = {"0": FOUR, "2": LayerBits(2.4, 3.2), "4": LayerBits(4, 4, symmetric=True)}
    model = compressed(model, (3, 9, 9), bits)
    content = onnx_model.to_bytes(packed(model, (3, 9, 9)), int8=True)
    images = torch.randn(9, 3, 9, 9, generator=rng)
    with torch.no_grad():
        wanted = model(images).flatten(1)
    found = run(content, images, optimized=tmp_path / "optimized.onnx").reshape(9, -1)
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QLinearConv"] == 2 and nearly(found, wanted)


def test_what_a_graph_cannot_say_is_refused(rng):
    with pytest.raises(UserError, match="cannot be written as ONNX: 'gamma' is a table of codes"):
        onnx_model.to_bytes(read(integer_network(rng)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    model = compressed(model, (3, 6, 6), {"0": FOUR, "2": FOUR}, sparsity=0)
    file = packed(model, (3, 6, 6))
    scale = file.contents.tensors["2.weight_scale"].copy()
    scale[1] = 1e-41
    file.contents.tensors["2.weight_scale"] = scale
    for qonnx in (False, True):
        with pytest.raises(UserError, match=r"layer '2' has steps of \S+, which are no normal"):
            onnx_model.to_bytes(file, qonnx=qonnx)
