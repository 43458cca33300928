"""Activations: the moving range of a tensor, rounding to it, and 4-bit codes."""

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..scheme import Scheme, packed_bytes
from .registry import call_with_gradient, define, dense, differentiate, empty, empty_bits, laid_out

define(
    "update_range_(Tensor x, Tensor(a!) ema, Tensor(b!) range, Tensor(c!) step, float decay) -> ()",
    checks.update_range,
    lambda x, ema, range, step, decay: None,
)
define(
    "move_range_(Tensor extremes, Tensor(a!) ema, Tensor(b!) range, Tensor(c!) step, float decay)"
    " -> ()",
    checks.move_range,
    lambda extremes, ema, range, step, decay: None,
)
define(
    "fake_quant_per_tensor(Tensor x, Tensor range, int levels, int scheme) -> (Tensor, Tensor)",
    checks.fake_quant_per_tensor,
    lambda x, range, levels, scheme: (torch.empty_like(x), empty_bits(x)),
)
define(
    "fake_quant_per_tensor_observed(Tensor x, Tensor range, Tensor step, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    checks.fake_quant_per_tensor_observed,
    lambda x, range, step, levels, scheme: (
        torch.empty_like(x),
        empty_bits(x),
        torch.empty_like(range),
    ),
)
define(
    "fake_quant_per_tensor_backward(Tensor grad, Tensor inside) -> Tensor",
    checks.select_by_bits,
    lambda grad, inside: torch.empty_like(grad),
)
define(
    "quantize_per_tensor(Tensor x, Tensor range, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    checks.quantize_per_tensor,
    lambda x, range, levels, scheme: (
        empty(x, (packed_bytes(x.numel(), checks.MOST_CODE_LEVELS),), torch.uint8),
        empty_bits(x),
        torch.empty_like(range),
    ),
)
define(
    "dequantize_per_tensor(Tensor codes, Tensor range, int numel, int levels, int scheme)"
    " -> Tensor",
    checks.dequantize_per_tensor,
    lambda codes, range, numel, levels, scheme: empty(codes, (numel,), torch.float32),
)

# Gradients: 1 where the bit says inside, else 0. One bit an element is all that is saved. --------


def _save_inside(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.arguments, ctx.strides = len(inputs), inputs[0].stride()


def _gradient(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    nothing = (None,) * (ctx.arguments - 1)
    if grad is None:
        return None, *nothing
    (inside,) = ctx.saved_tensors
    grad = laid_out(grad, grad.shape, ctx.strides)
    return _OP.fake_quant_per_tensor_backward.default(grad, inside), *nothing


differentiate("fake_quant_per_tensor", _gradient, _save_inside)
differentiate("fake_quant_per_tensor_observed", _gradient, _save_inside)

# What callers use -------------------------------------------------------------------------------

_OP = torch.ops.micronet


def update_range_(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages `ema` [2] by min and max of x, sets the bias-corrected `range` [2].

    `step` int64 [1] counts the calls. A NaN in x makes the range NaN. Nothing waits for the
    device. Raises ValueError for an empty x or a decay outside [0, 1), TypeError for a dtype.
    Source: bias-corrected exponential moving average, Kingma and Ba 2015, section 3.
    """
    _OP.update_range_.default(dense(x.detach()), ema, range, step, decay)


def move_range_(extremes: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """As `update_range_`, by a minimum and a maximum [2] that are known already."""
    _OP.move_range_.default(extremes, ema, range, step, decay)


def fake_quant_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int = Scheme.AFFINE
) -> Tensor:
    """x rounded to the `levels` values that the range [2] (lo, hi), widened to 0, is cut into.

    Same shape, dtype and memory format as x. The gradient is 1 inside the widened range, ends
    included, else 0. NaN and infinity give NaN. Raises ValueError for levels or scheme, TypeError
    for a dtype. Source: Jacob et al. 2018, section 3, with the straight-through gradient.
    """
    return call_with_gradient("fake_quant_per_tensor", dense(x), range, levels, int(scheme))[0]


def fake_quant_per_tensor_observed(
    x: Tensor, range: Tensor, step: Tensor, levels: int, scheme: int = Scheme.AFFINE
) -> tuple[Tensor, Tensor]:
    """As `fake_quant_per_tensor`, with the float32 extremes [2] of x from the same read.

    Meant for the range of the step before: follow it with `move_range_`. While `step` is 0 there
    is none, and x is rounded to its own extremes. Raises also for an empty x.
    """
    y, _, found = _OP.fake_quant_per_tensor_observed.default(
        dense(x), range, step, levels, int(scheme)
    )
    return y, found.detach()


def quantize_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int = Scheme.AFFINE
) -> tuple[Tensor, Tensor, Tensor]:
    """The 4-bit codes of x, the bits of the gradient, and the float32 extremes [2] of x.

    Codes are two a byte, the first in the low half, the bits eight a byte; both in memory order.
    A symmetric code is stored from 0 on. NaN and infinity have code 0 and show in the extremes.
    Raises as `fake_quant_per_tensor`, for more than 16 levels and for an empty x.
    """
    return _OP.quantize_per_tensor.default(dense(x.detach()), range, levels, int(scheme))


def dequantize_per_tensor(
    codes: Tensor, range: Tensor, numel: int, levels: int, scheme: int = Scheme.AFFINE
) -> Tensor:
    """The float32 values [numel] of packed 4-bit codes; ValueError for a number of bytes."""
    return _OP.dequantize_per_tensor.default(codes, range, numel, levels, int(scheme))
