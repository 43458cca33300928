"""Other bits for layers that are quantized already, while they train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from micronet.models import shared_layers
from micronet.quantization.layers import quantized_layers
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers import LearnedActivationQuantizer, step_factor


def change_bits_(model: nn.Module, bits: Mapping[str, LayerBits]) -> dict[str, float]:
    """Give the quantized layers of a network other bits; parameters stay the same objects.

    Ranges stay, and so do the ends that learned steps reach.

    Args:
        model: its layers keep their kinds of steps.
        bits: precision by layer; layers without an entry stay as they are.

    Returns:
        By which each learned step was multiplied, by the name of the parameter.
    """
    owners, factors = shared_layers.owners(model), {}
    for name, layer in quantized_layers(model):
        before, after = layer.bits, bits.get(name, layer.bits)
        if before == after:
            continue
        start = f"{name}." if name else ""
        layer.change_bits(after, owns_weight=owners[name] == name)
        if layer.weight_step is not None and owners[name] == name:
            factor = step_factor(before.weight_levels, after.weight_levels)
            factors[f"{start}weight_step"] = factor
        if isinstance(layer.input_quantizer, LearnedActivationQuantizer):
            factor = step_factor(before.activation_levels, after.activation_levels)
            factors[f"{start}input_quantizer.step_size"] = factor
    return factors


def fewest_bits(
    bits: Mapping[str, LayerBits], weights: float | None, activations: float | None
) -> dict[str, LayerBits]:
    """Return precisions where no operand that is quantized has fewer bits than given.

    Args:
        bits: precision by layer.
        weights: the fewest bits of a weight, None where any number will do.
        activations: the fewest bits of an input, likewise.
    """
    return {
        name: dataclasses.replace(
            own,
            weight_bits=_more(own.weight_bits, weights),
            activation_bits=_more(own.activation_bits, activations),
        )
        for name, own in bits.items()
    }


def _more(own: float | None, least: float | None) -> float | None:
    return own if own is None or least is None else max(own, least)
