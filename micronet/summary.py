"""``python -m micronet.train summary``: the layers of a network, their work, zeros and bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from micronet import models
from micronet.dry_run import table
from micronet.quantized_modules import QuantizedLayer


def describe(model: nn.Module, structure: nn.Module, image_size: int) -> str:
    """Return one row a layer and the sums, as text.

    Args:
        model: gives zeros and bits.
        structure: the same network in float on the meta device, which gives the work.
        image_size: side of the input in pixels.
    """
    macs = multiply_adds(structure, image_size)
    layers = models.layers(model)
    rows = list(_rows(layers, macs))
    total = sum(layer.weight.numel() for layer in layers.values())
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    sums = ("all", "", "", f"{total:,}", _share(zeros, total), f"{sum(macs.values()):,}")
    return table([("layer", "kind", "shape", "weights", "zeros", "multiply-adds", "W bits",
                   "A bits"), *rows, (*sums, "", "")])  # fmt: skip


def _rows(layers: dict[str, models.Layer], macs: dict[str, int]) -> Iterator[tuple[str, ...]]:
    for name, layer in layers.items():
        numel = layer.weight.numel()
        zeros = int((layer.weight == 0).sum())
        bits: list[float | None] = [None, None]
        if isinstance(layer, QuantizedLayer):
            bits = [layer.bits.weight_bits, layer.bits.activation_bits]
        yield (
            name,
            _kind(layer),
            "x".join(map(str, layer.weight.shape)),
            f"{numel:,}",
            _share(zeros, numel),
            f"{macs[name]:,}",
            *("float" if b is None else f"{b:g}" for b in bits),
        )


def _share(zeros: int, total: int) -> str:
    return f"{100 * zeros / total:.2f} %" if total else "-"


def _kind(layer: nn.Module) -> str:
    if not isinstance(layer, nn.Conv2d):
        return "linear"
    if layer.groups == 1:
        return "convolution"
    return "depthwise" if layer.groups == layer.in_channels else "grouped"


def multiply_adds(structure: nn.Module, image_size: int) -> dict[str, int]:
    """Return the multiply-adds of each layer for one image; biases are not among them.

    Args:
        structure: a network on the meta device.
        image_size: side of the input in pixels.
    """
    layers = models.layers(structure)
    found = dict.fromkeys(layers, 0)

    def count(name: str) -> object:
        def hook(layer: nn.Module, inputs: object, output: Tensor) -> None:
            positions = output[0].numel() // output.shape[1]
            found[name] += positions * models.layers(structure)[name].weight.numel()

        return hook

    hooks = [layer.register_forward_hook(count(n)) for n, layer in layers.items()]  # type: ignore[arg-type]
    try:
        with torch.no_grad(), torch.device("meta"):
            structure.eval()(torch.empty(1, 3, image_size, image_size))
    finally:
        for handle in hooks:
            handle.remove()
    return found
