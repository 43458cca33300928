"""Other bits for layers that are quantized already, while they train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from micronet.models import shared_layers
from micronet.quantization.layers import quantized_layers
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantize import convert_
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer, step_factor


def quantize_(
    model: nn.Module,
    own: Mapping[str, LayerBits],
    now: Mapping[str, LayerBits],
    masks: Mapping[str, Tensor],
) -> dict[str, float]:
    """Quantize layers that are in float, and give those that are not other bits.

    Learned steps start as they would at their own bits, and reach as far at others: Esser's initial
    step of 8 bits reaches four times as far as that of 4, and would leave little of the weights
    when levels become fewer.

    Args:
        model: its modules keep their names.
        own: precision by layer that layers come down to.
        now: that they have first.
        masks: as in ``convert_``.

    Returns:
        As ``change_bits_``.
    """
    convert_(model, own, masks)
    factors = change_bits_(model, now)
    start_as_(model, own)
    return factors


def start_as_(model: nn.Module, own: Mapping[str, LayerBits]) -> None:
    """Let steps of inputs that are still to start do so as at their own bits; see ``quantize_``."""
    for name, layer in quantized_layers(model):
        if name in own and own[name].weight_levels is not None:
            layer.start_levels = own[name].weight_levels
        levels = own[name].activation_levels if name in own else None
        if levels is not None and isinstance(layer.input_quantizer, LearnedActivationQuantizer):
            layer.input_quantizer.start_levels = levels


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
