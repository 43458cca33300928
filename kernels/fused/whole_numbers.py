"""Convolutions of whole numbers in float, for operands that packed codes do not take.

Whole numbers have exact sums below 2^24 in float32 and below 2^53 in float64, in whatever order,
so that any convolution of them gives the same integers, on every backend.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.reference.quantiser import make_quantiser
from ..scheme import Scheme
from ..shapes import ConvShape, accumulator_bound, accumulator_dtype
from .convolution import ConvCall, ghost
from .deferred import Deferred, State

# Every whole number up to here is a float32.
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
    """The scale, a scalar, of the quantiser of `levels` levels under range [2]."""
    return make_quantiser(range[0], range[1], levels, Scheme.AFFINE).scale


def conv2d_of_integers(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None, call: ConvCall
) -> Deferred:
    """The convolution of values x [N, C, H, W] and w [O, C / groups, KH, KW], plus bias [O].

    Both are whole numbers over a scale, a scalar and [O]; the levels of `call` bound them. What is
    summed is those numbers, and a value is the sum times 1 / (x_scale * w_scale); it waits for its
    reader as that of codes does. Its gradient is that of the convolution of the values. Raises
    ValueError where a sum may need more than 32 bits.
    """
    shape = ConvShape.of(x.shape, w.shape, call.stride, call.padding, call.dilation, call.groups)
    with torch.no_grad():
        scales = w_scale[:, None, None, None]
        acc = _sums((x * x_scale).round_(), (w * scales).round_(), call, shape)
        ratio = torch.ones_like(w_scale) / (x_scale * w_scale)
    carrier = ghost(acc.shape, acc.device)
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        carrier = with_gradient_of(carrier, _convolve(x, w, call))
    return Deferred.of(State(carrier, acc, ratio, bias))


def _sums(x: Tensor, w: Tensor, call: ConvCall, shape: ConvShape) -> Tensor:
    """The integers [N, O, H', W'], channels last, as float32 or int32."""
    # Refuses what no 32 bits hold.
    accumulator_dtype(shape, call.levels, call.weight_levels)
    fits = accumulator_bound(shape.depth, call.levels, call.weight_levels) < _MOST_FLOAT32
    kind = torch.float32 if fits else torch.float64
    with torch.autocast(x.device.type, enabled=False):
        acc = _convolve(x.to(kind), w.to(kind), call)
    # Algorithms that leave whole numbers, as Winograd's, err by far less than a half.
    acc = acc.round_().to(torch.float32 if fits else torch.int32)
    return acc.contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, w: Tensor, call: ConvCall) -> Tensor:
    top, left, bottom, right = call.padding
    if any(call.padding):
        x = F.pad(x, [left, right, top, bottom])
    return F.conv2d(x, w, None, call.stride, 0, call.dilation, call.groups)
