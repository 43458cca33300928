"""The integers that weights are rounded to, as a layer's own quantizer makes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import micronet_kernels as kernels
from micronet.quantization.layers import QuantizedLayer


class WeightGrid(NamedTuple):
    """What the quantizer makes of a layer's weights now, in the unit in which it rounds them.

    Attributes:
        integers: i of the values ``i / S``, whole float32 numbers [channels, weights of each].
        scale: S [channels].
        low: [channels], the lowest weight that leaves the scale as it is: the end of the range.
            Minus infinity for a learned step, which no weight moves.
        high: the highest one, likewise.
        first: [channels], the lowest integer of the range; minus infinity for a learned step.
        last: the highest one, likewise.
    """

    integers: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    last: Tensor


@torch.no_grad()
def weight_grid(layer: QuantizedLayer) -> WeightGrid:
    """Return the grid of a layer whose weights are quantized, without waiting for the device."""
    if layer.weight_step is not None:
        scale = layer.weight_scale()
        # The values are quotients that were rounded, by much less than half an integer.
        integers = torch.round(layer.quantized_weight().flatten(1) * scale[:, None])
        infinite = torch.full_like(scale, torch.inf)
        return WeightGrid(integers, scale, -infinite, infinite, -infinite, infinite)
    weight, levels = layer.scaled_weight(), layer.weight_levels
    scheme = layer.bits.weight_scheme
    codes, scale, zero = kernels.quantize_per_channel(weight, levels, layer.weight_mask, scheme)
    integers = codes.flatten(1).float() + zero[:, None]
    low, high = torch.aminmax(weight.flatten(1), dim=1)
    if scheme.is_symmetric:
        high = torch.maximum(-low, high)
        return WeightGrid(integers, scale, -high, high, zero, -zero)
    # A range holds zero.
    ends = low.clamp(max=0.0), high.clamp(min=0.0)
    return WeightGrid(integers, scale, *ends, zero, zero + (levels - 1))


def beyond_levels(layer: QuantizedLayer) -> Tensor:
    """Return how far each weight is from the value that it is rounded to, shaped as the weights.

    It is 0 for weights beyond the last level of a learned step. The gradient is 1 elsewhere: the
    levels stand still.
    """
    weight = layer.scaled_weight()
    with torch.no_grad():
        values = layer.quantized_weight()
        if layer.weight_step is not None:
            ends = weight.flatten(1)
            step, zero = layer.weight_step[:, None], layer.weight_zero_point[:, None]
            inside = (ends >= step * zero) & (ends <= step * (zero + layer.weight_levels - 1))
            values = torch.where(inside.view(values.shape), values, weight)
    return weight - values
