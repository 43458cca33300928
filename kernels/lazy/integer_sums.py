"""Convolutions of integers in float, for operands that packed codes do not take.

Integers have exact sums below 2^24 in float32 and below 2^53 in float64, in whatever order, so that
any convolution of them gives the same integers, on every backend.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.reference.quantizer import make_quantizer
from ..scheme import Scheme
from ..shapes import ConvShape, accumulator_bound, accumulator_dtype, is_channels_last
from .block import Block
from .convolution import ConvCall
from .nodes import WaitNode
from .tensor import LazyTensor

# Every integer up to here is a float32.
_MOST_FLOAT32 = 2**24


class _GradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, y: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def with_gradient_of(value: Tensor, y: Tensor) -> Tensor:
    """value, whose gradient is that of y: the same number, but for the order of its sums."""
    return _GradientOf.apply(value, y)


def scale_of_range(range: Tensor, levels: int) -> Tensor:
    """The scale, a scalar, of the quantizer of `levels` levels under range [2]."""
    return make_quantizer(range[0], range[1], levels, Scheme.AFFINE).scale


def conv2d_of_integers(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None, call: ConvCall
) -> LazyTensor:
    """The convolution of values x [N, C, H, W] and w [O, C / groups, KH, KW], plus bias [O].

    Both are integers over a scale, a scalar and [O]; the levels of `call` bound them. What is
    summed is those integers, and a value is the sum times 1 / (x_scale * w_scale); it waits for its
    reader as that of codes does. Its gradient is that of the convolution of the values. Raises
    ValueError where a sum may need more than 32 bits.
    """
    shape = ConvShape.of(x.shape, w.shape, call.stride, call.padding, call.dilation, call.groups)
    with torch.no_grad():
        scales = w_scale[:, None, None, None]
        sums = integer_sums((x * x_scale).round_(), (w * scales).round_(), call, shape)
        scale = torch.ones_like(w_scale) / (x_scale * w_scale)
        shift = None if bias is None else bias.detach().float().clone()
    block = Block(sums, scale, shift, is_channels_last(x) or is_channels_last(w))
    operands = [t for t in (x, w, bias) if t is not None]
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in operands):
        return LazyTensor.of(block)
    return WaitNode.apply(_convolve(x, w, call, bias), block, LazyTensor.of)


def integer_sums(x: Tensor, w: Tensor, call: ConvCall, shape: ConvShape) -> Tensor:
    """The integers [N, O, H', W'] as float32, channels last; NaN where an operand is."""
    # Refuses what no 32 bits hold.
    accumulator_dtype(shape, call.levels, call.weight_levels)
    fits = accumulator_bound(shape.depth, call.levels, call.weight_levels) < _MOST_FLOAT32
    kind = torch.float32 if fits else torch.float64
    with torch.autocast(x.device.type, enabled=False):
        sums = _convolve(x.to(kind), w.to(kind), call, None)
    # Algorithms that leave the integers, as Winograd's, err by far less than a half. A value is
    # float(sum) * scale, so that rounding to float32 here is its first step.
    return sums.round_().float().contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, w: Tensor, call: ConvCall, bias: Tensor | None) -> Tensor:
    top, left, bottom, right = call.padding
    if any(call.padding):
        x = F.pad(x, [left, right, top, bottom])
    return F.conv2d(x, w, bias, call.stride, 0, call.dilation, call.groups)
