"""``python -m micronet.train summary``: the layers of a network, their work, zeros and bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from micronet.cli.dry_run import table
from micronet.models import architectures, shared_layers
from micronet.pruning.patterns import outputs_first
from micronet.quantization.layers import QuantizedLayer
from micronet.scoring.operations import operation_walk
from micronet.utils.errors import UserError


def layer_table(model: nn.Module, structure: nn.Module, image_size: int, name: str = "") -> str:
    """Return one row a layer and the sums, as text.

    Args:
        model: gives zeros and bits.
        structure: the same network in float on the meta device, which gives the work.
        image_size: side of the input in pixels.
        name: of the network in messages, its class's unless given.
    """
    macs = multiply_adds(structure, image_size, name)
    # Weights that several layers hold are stored once.
    stored = {weight.data_ptr(): weight for weight in _weights(model, macs).values()}.values()
    total = sum(weight.numel() for weight in stored)
    zeros = sum(int((weight == 0).sum()) for weight in stored)
    sums = ("all", "", "", f"{total:,}", _share(zeros, total), f"{sum(macs.values()):,}")
    return table([("layer", "kind", "shape", "weights", "zeros", "multiply-adds", "W bits",
                   "A bits"), *_rows(model, macs), (*sums, "", "")])  # fmt: skip


def _rows(model: nn.Module, macs: dict[str, int]) -> Iterator[tuple[str, ...]]:
    layers: Mapping[str, nn.Module] = architectures.layers(model)
    names = shared_layers.all_names(model)
    for name, weight in _weights(model, macs).items():
        layer = layers.get(name)
        bits: list[float | None] = [None, None]
        if isinstance(layer, QuantizedLayer):
            bits = [layer.bits.weight_bits, layer.bits.activation_bits]
        yield (
            shared_layers.label(names.get(name, [name])),
            _kind(layer) if layer else "function",
            "x".join(map(str, (outputs_first(weight, layer) if layer else weight).shape)),
            f"{weight.numel():,}",
            _share(int((weight == 0).sum()), weight.numel()),
            f"{macs[name]:,}",
            *("float" if b is None else f"{b:g}" for b in bits),
        )


def _share(zeros: int, total: int) -> str:
    return f"{100 * zeros / total:.2f} %" if total else "-"


def _weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return what each layer, or each function by the name of its weights, multiplies by."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    layers = architectures.layers(model)
    return {n: layers[n].weight if n in layers else tensors[n] for n in names}


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    if not isinstance(layer, nn.Conv2d):
        return type(layer).__name__
    if layer.groups == 1:
        return "convolution"
    return "depthwise" if layer.groups == layer.in_channels else "grouped"


def multiply_adds(structure: nn.Module, image_size: int, name: str = "") -> dict[str, int]:
    """Return the multiply-adds of each layer for one image; biases are not among them.

    Convolutions and linear layers that are no modules come last, by the name of their weights.

    Args:
        structure: a network, on any device.
        image_size: side of the input in pixels.
        name: of the network in messages, its class's unless given.

    Raises:
        UserError: the network does not take such images, or not each by itself, or has no weights.
    """
    name = name or type(structure).__name__
    try:
        found = operation_walk.multiply_adds(structure, image_size)
    except ValueError as error:
        raise UserError(f"{name} has no summary: {error}") from None
    found = dict.fromkeys(architectures.layers(structure), 0) | found
    if not found:
        raise UserError(f"{name} has no convolution and no linear layer")
    return found
