"""A reader of packed files by the page of the format alone: numpy, and nothing of the library.

It computes one image slowly, as the page says; the library is held to it bit for bit.
"""

import hashlib
import json

import numpy as np

F = np.float32


def load(content):
    """The document and the tensors of a file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    document = json.loads(header.pop("__metadata__")["micronet_packed"])
    data = content[8 + length :]
    assert hashlib.sha256(data).hexdigest() == document["sha256"]
    types = {"F32": "<f4", "U8": "u1"}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], types[entry["dtype"]])
    return document, tensors


def bits(packed, count):
    return np.unpackbits(packed, count=count, bitorder="little")


def codes(packed, count, packing, levels):
    size, width = packing
    groups = -(-count // size)
    words = bits(packed, groups * width).reshape(groups, width) @ (1 << np.arange(width))
    base = 2**width if size == 1 else levels
    return np.stack([words // base**i % base for i in range(size)], 1).ravel()[:count]


def one_by_one(packed, count, levels):
    return codes(packed, count, (1, (levels - 1).bit_length()), levels)


def weights(name, layer, tensors):
    """The integers of a layer's weights, or its floats, in the layer's shape."""
    owner, shape = layer.get("weight_of", name), layer["shape"]
    rows, columns = shape[0], int(np.prod(shape[1:]))
    kept = np.ones((rows, columns), bool)
    if layer["layout"] == "bit mask":
        kept = bits(tensors[f"{owner}.weight_mask"], rows * columns).reshape(rows, columns) == 1
    elif layer["layout"] == "block mask":
        y, x = layer["block"]
        flags = bits(tensors[f"{owner}.weight_mask"], -(-rows // y) * -(-columns // x))
        flags = flags.reshape(-(-rows // y), -1) == 1
        kept = flags.repeat(y, 0).repeat(x, 1)[:rows, :columns]
    matrix = np.zeros((rows, columns), F)
    if "levels" in layer:
        levels = layer["levels"]
        zero = one_by_one(tensors[f"{name}.weight_zero_point"], rows, levels)
        packed = tensors[f"{owner}.weight_packed"]
        matrix += zero[:, None]
        matrix[kept] = codes(packed, layer["values"], layer["packing"], levels)
        matrix -= zero[:, None].astype(F)
    else:
        matrix[kept] = tensors[f"{owner}.weight"]
    if layer.get("channels_last"):
        matrix = np.moveaxis(matrix.reshape(rows, *shape[2:], shape[1]), -1, 1)
    return matrix.reshape(shape)


def fma(a, b, c):
    """One rounding: long doubles hold products of float32 numbers and the sum to 64 bits."""
    total = a.astype(np.longdouble) * b + c
    wide = total.astype(np.float64)
    # To odd before the second rounding, to float32.
    error = total - wide
    stored = wide.view(np.int64)
    away = np.where((error > 0) == (wide > 0), 1, -1)
    odd = np.where((error == 0) | (stored & 1 == 1), stored, stored + away)
    return odd.view(np.float64).astype(F)


def pairwise(lanes):
    while lanes.shape[-1] > 1:
        low, high = np.split(lanes, 2, -1)
        lanes = low + high
    return lanes[..., 0]


def linear(x, w):
    lanes = np.zeros((len(w), 16), F)
    for k in range(0, len(x), 16):
        part = w[:, k : k + 16]
        full = fma(np.broadcast_to(x[k : k + 16], part.shape), part, lanes[:, : part.shape[1]])
        lanes[:, : part.shape[1]] = full
    return pairwise(lanes)


def windows(x, layer, fill):
    """Yield, for each position of the kernel, its row, its column and what it reads."""
    top, left, bottom, right = layer["padding"]
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=fill)
    (sy, sx), (dy, dx), (ky, kx) = layer["stride"], layer["dilation"], layer["shape"][2:]
    height = (x.shape[1] - dy * (ky - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (kx - 1) - 1) // sx + 1
    for i in range(ky):
        for j in range(kx):
            rows = slice(i * dy, i * dy + (height - 1) * sy + 1, sy)
            columns = slice(j * dx, j * dx + (width - 1) * sx + 1, sx)
            yield i, j, x[:, rows, columns]


def conv(x, w, layer, is_integer, border=None):
    groups, outputs = layer["groups"], len(w)
    taps = {(i, j): read for i, j, read in windows(x, layer, 0)}
    if border is not None:
        # Where the border lies, and no image, the channel's own code is read.
        inside = {(i, j): read for i, j, read in windows(np.ones_like(x), layer, 0)}
        taps = {at: read + (1 - inside[at]) * border[:, None, None] for at, read in taps.items()}
    size = next(iter(taps.values())).shape[1:]
    total = np.zeros((outputs, *size), np.int64 if is_integer else F)
    for o in range(outputs):
        first = o // (outputs // groups) * w.shape[1]
        for c in range(w.shape[1]):
            for (i, j), read in taps.items():
                if is_integer:
                    total[o] += read[first + c] * np.int64(w[o, c, i, j])
                else:
                    factor = np.full(size, w[o, c, i, j], F)
                    total[o] = fma(read[first + c], factor, total[o])
    return total


def layer_of(name, layer, tensors, x):
    w, bias = weights(name, layer, tensors), tensors.get(f"{name}.bias")
    scale, norm = tensors.get(f"{name}.weight_scale"), tensors.get(f"{name}.norm_scale")
    is_conv, is_integer = len(layer["shape"]) == 4, layer["sums"] == "integer"
    wide = (-1, 1, 1) if is_conv else (-1,)
    if layer["sums"] == "float" and scale is not None:
        w = w / scale.reshape(-1, *(1,) * (w.ndim - 1))
    if is_conv:
        total = conv(x.integers if is_integer else x.values, w, layer, is_integer, x.border)
    elif is_integer:
        total = w.astype(np.int64) @ x.integers
    else:
        total = linear(x.values, w)
    total = total.astype(F)
    factor = norm if layer["sums"] == "float" else scale
    if factor is None and is_conv:
        return total if bias is None else total + bias.reshape(wide)
    factor = np.ones(len(w), F) if factor is None else factor
    shift = np.zeros(len(w), F) if bias is None else bias
    both = (np.broadcast_to(v.reshape(wide), total.shape) for v in (factor, shift))
    return fma(total, *both)


def exp(v):
    v = np.clip(v, F(-104), F(89))
    n = np.rint(v * F(1.44269504088896341))
    r = fma(n, np.full_like(n, -0.693359375), v)
    r = fma(n, np.full_like(n, 2.12194440e-4), r)
    p = np.full_like(r, 1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1):
        p = fma(p, r, np.full_like(r, factor))
    p = fma(p, r, np.full_like(r, 5.0000001201e-1))
    e = fma(p, r * r, r) + F(1)
    half = np.rint(n * F(0.5))
    # Beyond the largest float lies infinity, whose reciprocal is 0.
    with np.errstate(over="ignore"):
        return np.ldexp(np.ldexp(e, half.astype(int)), (n - half).astype(int))


def clipped(x):
    return np.minimum(np.maximum(x, F(0)), F(6))


FUNCTIONS = {
    "relu": lambda x: np.where(x < 0, F(0), x),
    "relu6": clipped,
    "hardsigmoid": lambda x: clipped(x + F(3)) / F(6),
    "hardswish": lambda x: x * clipped(x + F(3)) / F(6),
    "sigmoid": lambda x: F(1) / (F(1) + exp(-x)),
    "swish": lambda x: x / (F(1) + exp(-x)),
}


class Codes:
    """A signal of integers, or of values alone."""

    def __init__(self, values=None, integers=None, scale=None, zero=None, border=None):
        self.integers, self.scale, self.zero, self.border = integers, scale, zero, border
        self.values = integers.astype(F) / scale if values is None else values


def quantizer(node, tensors):
    scale = tensors[f"{node['name']}_scale"][0]
    return scale, int(one_by_one(tensors[f"{node['name']}_zero_point"], 1, node["levels"])[0])


def quantize(node, tensors, x):
    scale, zero = quantizer(node, tensors)
    found = np.clip(np.rint(scale * x.values + F(zero)), 0, node["levels"] - 1)
    return Codes(integers=found.astype(np.int64) - zero, scale=scale, zero=zero)


def pixels(node, tensors, x):
    mean, std = (F(255) * np.array(node[key], F)[:, None, None] for key in ("mean", "std"))
    found = np.clip(np.rint(x.values * std + mean), 0, 255).astype(np.int64)
    border = one_by_one(tensors[f"{node['name']}_zero_point"], len(mean), 256)
    return Codes(integers=found, scale=tensors[f"{node['name']}_scale"][0], border=border)


def table(node, tensors, x, levels):
    scale, zero = quantizer(node, tensors)
    entries = one_by_one(tensors[f"{node['name']}_table"], levels, node["levels"])
    return Codes(integers=entries[x.integers + x.zero].astype(np.int64) - zero, scale=scale)


def mean(x):
    flat = x.reshape(len(x), -1)
    lanes = np.zeros((len(x), 16), F)
    for k in range(0, flat.shape[1], 16):
        part = flat[:, k : k + 16]
        lanes[:, : part.shape[1]] += part
    return (pairwise(lanes) / F(flat.shape[1])).reshape(-1, 1, 1)


def maximum(node, x):
    shape = [1, 1, *node["kernel"]]
    sides = node["padding"] * 2
    call = {"padding": sides, "stride": node["stride"], "dilation": node["dilation"]}
    return np.max([read for _, _, read in windows(x, call | {"shape": shape}, -np.inf)], axis=0)


def part(node, x):
    ends = zip(node["start"], node["stop"], node["step"], strict=True)
    return x[tuple(slice(*three) for three in ends)]


PLAIN = {
    "activation": lambda n, x: FUNCTIONS[n["function"]](x),
    "pool": lambda n, x: mean(x) if n["function"] == "mean" else maximum(n, x),
    "gate": lambda n, x, y: x * y,
    "add": lambda n, x, y: x + y,
    "concat": lambda n, *parts: np.concatenate(parts),
    "reshape": lambda n, x: x.reshape(n["shape"]),
    "slice": part,
    "pad": lambda n, x: np.pad(x, list(zip(n["before"], n["after"], strict=True))),
}


def run(content, image):
    """The output of one float32 image [C, H, W]."""
    document, tensors = load(content)
    found = []
    for node in document["nodes"]:
        inputs = [found[i] for i in node.get("inputs", ())]
        kind = node["kind"]
        if kind == "input":
            found.append(Codes(image))
        elif kind == "quantize":
            found.append(quantize(node, tensors, inputs[0]))
        elif kind == "pixels":
            found.append(pixels(node, tensors, inputs[0]))
        elif kind == "table":
            levels = document["nodes"][node["inputs"][0]]["levels"]
            found.append(table(node, tensors, inputs[0], levels))
        elif kind in ("conv", "linear"):
            layer = document["layers"][node["layer"]]
            found.append(Codes(layer_of(node["layer"], layer, tensors, inputs[0])))
        else:
            found.append(Codes(PLAIN[kind](node, *(x.values for x in inputs))))
    return found[document["output"]].values
