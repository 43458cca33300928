"""Convolutions with weights that are integers already, as a file of codes holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import ConvShape, is_channels_last
from .block import Block
from .convolution import ConvCall, Learned, QuantizedInput, QuantizedWeights, sums_of
from .integer_sums import integer_sums
from .tensor import LazyTensor


@torch.no_grad()
def conv2d_of_stored(
    x: QuantizedInput,
    integers: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    call: ConvCall,
) -> LazyTensor:
    """fma(sum, scale, shift) of the sums of a convolution of codes with integer weights.

    integers are float32 [O, C / groups, KH, KW]; with the zero points [O] of their codes they lie
    in [-zero_point, weight_levels - 1 - zero_point]. scale and shift [O] are those of evaluation,
    a normalization taken in. The values wait for their reader; they have no gradient. Raises
    ValueError for sizes or levels, TypeError for a dtype.
    """
    mask = integers.new_empty(0, dtype=torch.uint8)
    # Integers are the multiples of a step of 1.
    steps = Learned(torch.ones_like(zero_point))
    weights = QuantizedWeights.of_steps(mask, -zero_point, steps)
    sums, _ = sums_of(x.codes, x.coding, x.size, integers, weights, call)
    is_last = x.lies_channels_last or is_channels_last(integers)
    return LazyTensor.of(Block(sums, scale, shift, is_last))


@torch.no_grad()
def conv2d_of_nonfinite(
    x: Tensor,
    x_scale: Tensor,
    integers: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    call: ConvCall,
) -> LazyTensor:
    """The same of values x [N, C, H, W] over a scale, of which some are NaN: no code is."""
    shape = ConvShape.of(
        x.shape, integers.shape, call.stride, call.padding, call.dilation, call.groups
    )
    sums = integer_sums((x * x_scale).round_(), integers, call, shape)
    is_last = is_channels_last(x) or is_channels_last(integers)
    return LazyTensor.of(Block(sums, scale, shift, is_last))


@torch.no_grad()
def scaled_sums(
    sums: Tensor, scale: Tensor, shift: Tensor | None, channels_last: bool
) -> LazyTensor:
    """fma(sum, scale, shift) of float32 sums [N, C, H, W], scale and shift [C]; see above.

    The values lie channels last in memory or not.
    """
    sums = sums.detach().contiguous(memory_format=torch.channels_last)
    return LazyTensor.of(Block(sums, scale, shift, channels_last))
