"""A packed file that no writer makes."""

import numpy as np
import torch

from micronet.artifact.format import container, document, packing
from micronet_kernels.scheme import code_group


def integer_network(rng, radix=False):
    """The bytes of a network by hand: a quantized image, a table, and codes in groups."""
    levels = 5
    make = {"layout": "dense", "sums": "integer", "levels": levels, "groups": 1, "bias": True}
    packing_ = code_group(levels) if radix else (1, 3)
    layer = {
        **make,
        "shape": [4, 3, 3, 3],
        "values": 108,
        "packing": list(packing_),
        "stride": [1, 1],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
    }
    plain = {
        "format": "micronet-packed",
        "version": 1,
        "input": [3, 6, 6],
        "nodes": [
            {"kind": "input"},
            {"kind": "quantize", "inputs": [0], "name": "image", "levels": 256},
            {"kind": "table", "inputs": [1], "name": "gamma", "levels": 7},
            {"kind": "conv", "inputs": [2], "layer": "conv"},
            {"kind": "activation", "inputs": [3], "function": "swish", "exact": True},
            {"kind": "quantize", "inputs": [4], "name": "last", "levels": 3},
            {"kind": "add", "inputs": [5, 4]},
        ],
        "output": 6,
        "layers": {"conv": layer},
        "about": {},
    }
    read_back = document.Layer(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in layer.items()}
    )
    read_nodes = tuple(document._node(n, "", "") for n in plain["nodes"])
    plain["quantization_config"] = document.quantization_config({"conv": read_back}, read_nodes)

    def draw(count, of):
        return torch.randint(of, (count,), generator=rng)

    tensors = {
        "image_scale": np.array([255 / 4], np.float32),
        "image_zero_point": packing.to_bits(torch.tensor([128]), (1, 8), 256),
        "gamma_scale": np.array([1.5], np.float32),
        "gamma_zero_point": packing.to_bits(torch.tensor([2]), (1, 3), 7),
        "gamma_table": packing.to_bits(draw(256, 7), (1, 3), 7),
        "last_scale": np.array([0.75], np.float32),
        "last_zero_point": packing.to_bits(torch.tensor([1]), (1, 2), 3),
        "conv.weight_packed": packing.to_bits(draw(108, levels), packing_, levels),
        "conv.weight_zero_point": packing.to_bits(draw(4, levels), (1, 3), levels),
        "conv.weight_scale": torch.rand(4, generator=rng).numpy(),
        "conv.bias": torch.randn(4, generator=rng).numpy(),
    }
    return container.to_bytes(plain, tensors)
