"""Activations: the moving range of a tensor, rounding to it, and codes."""

import struct
from typing import Any

import torch
from torch import Tensor

from ..checks import (
    check,
    check_codes,
    check_dense,
    check_float_type,
    check_order,
    check_range_scheme,
    check_same_device,
    check_selection,
)
from ..scheme import Scheme, check_quantizer, code_bytes
from .registry import (
    call_backward,
    call_with_gradient,
    define,
    dense,
    differentiate,
    differentiate_again,
    empty,
    empty_bits,
    laid_out,
)

# What the operators refuse ----------------------------------------------------------------------


def _check_move(found: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    check("extremes", found, torch.float32, (2,))
    _check_state(found, ema, range, step, decay)


def _check_update(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    check_dense("x", x)
    _check_some(x)
    _check_state(x, ema, range, step, decay)


def _check_some(x: Tensor) -> None:
    if x.numel() == 0:
        raise ValueError(f"x has shape {list(x.shape)}, and no elements have no range")


def _check_state(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """A decay that float32 rounds to 1 would divide by 0."""
    for name, state in (("ema", ema), ("range", range)):
        check(name, state, torch.float32, (2,))
        check_order(name, state)
        check_same_device(name, state, x)
    _check_step_count(x, step)
    if not 0 <= decay < 1 or struct.unpack("f", struct.pack("f", decay))[0] == 1:
        raise ValueError(f"decay is {decay}, but must lie in [0, 1) in float32")


def _check_step_count(x: Tensor, step: Tensor) -> None:
    check("step", step, torch.int64, (1,))
    check_same_device("step", step, x)


def _check_rounding(x: Tensor, range: Tensor, levels: int, scheme: int) -> None:
    check_dense("x", x)
    check("range", range, torch.float32, (2,))
    check_same_device("range", range, x)
    check_range_scheme(levels, scheme)


def _check_observed(x: Tensor, range: Tensor, step: Tensor, levels: int, scheme: int) -> None:
    _check_rounding(x, range, levels, scheme)
    _check_some(x)
    _check_step_count(x, step)


def _check_quantize(x: Tensor, range: Tensor, levels: int, scheme: int) -> None:
    _check_rounding(x, range, levels, scheme)
    _check_some(x)


def _check_dequantize(
    codes: Tensor, range: Tensor, numel: int, levels: int, scheme: int, dtype: torch.dtype
) -> None:
    check_float_type("dtype", dtype)
    check_codes(codes, numel, levels)
    check("range", range, torch.float32, (2,))
    check_same_device("range", range, codes)
    check_quantizer(levels, scheme)


# The operators ----------------------------------------------------------------------------------

define(
    "update_range_(Tensor x, Tensor(a!) ema, Tensor(b!) range, Tensor(c!) step, float decay) -> ()",
    _check_update,
    lambda x, ema, range, step, decay: None,
)
define(
    "move_range_(Tensor extremes, Tensor(a!) ema, Tensor(b!) range, Tensor(c!) step, float decay)"
    " -> ()",
    _check_move,
    lambda extremes, ema, range, step, decay: None,
)
define(
    "fake_quant_per_tensor(Tensor x, Tensor range, int levels, int scheme) -> (Tensor, Tensor)",
    _check_rounding,
    lambda x, range, levels, scheme: (torch.empty_like(x), empty_bits(x)),
)
define(
    "fake_quant_per_tensor_observed(Tensor x, Tensor range, Tensor step, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    _check_observed,
    lambda x, range, step, levels, scheme: (
        torch.empty_like(x),
        empty_bits(x),
        torch.empty_like(range),
    ),
)
define(
    "fake_quant_per_tensor_backward(Tensor grad, Tensor inside) -> Tensor",
    check_selection,
    lambda grad, inside: torch.empty_like(grad),
)
define(
    "quantize_per_tensor(Tensor x, Tensor range, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    _check_quantize,
    lambda x, range, levels, scheme: (
        empty(x, (code_bytes(x.numel(), levels),), torch.uint8),
        empty_bits(x),
        torch.empty_like(range),
    ),
)
define(
    "dequantize_per_tensor(Tensor codes, Tensor range, int numel, int levels, int scheme,"
    " ScalarType dtype) -> Tensor",
    _check_dequantize,
    lambda codes, range, numel, levels, scheme, dtype: empty(codes, (numel,), dtype),
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
    return call_backward("fake_quant_per_tensor_backward", grad, inside), *nothing


def _save_inside_again(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save_inside(ctx, inputs, (output, inputs[1]))


differentiate("fake_quant_per_tensor", _gradient, _save_inside)
differentiate("fake_quant_per_tensor_observed", _gradient, _save_inside)
# It is linear, so its own gradient is itself: torch would leave that out with a warning.
differentiate_again("fake_quant_per_tensor_backward", _gradient, _save_inside_again)

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
    """The codes of x, the bits of the gradient, and the float32 extremes [2] of x.

    Codes of up to 16 levels are two a byte, the first in the low half, those of more a byte each,
    the bits eight a byte; all in memory order. A symmetric code is stored from 0 on. NaN and
    infinity have code 0 and show in the extremes. Raises as `fake_quant_per_tensor`, and for an
    empty x.
    """
    return _OP.quantize_per_tensor.default(dense(x.detach()), range, levels, int(scheme))


def dequantize_per_tensor(
    codes: Tensor,
    range: Tensor,
    numel: int,
    levels: int,
    scheme: int = Scheme.AFFINE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The values [numel] of codes as `quantize_per_tensor` packs them, rounded to a dtype once.

    Where the scheme is LEARNED, range holds the step and the zero point.

    Raises ValueError for a number of bytes, TypeError for a dtype.
    """
    return _OP.dequantize_per_tensor.default(codes, range, numel, levels, int(scheme), dtype)
