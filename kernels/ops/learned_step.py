"""Rounding to a learned step: the step of the quantizer is a parameter with a gradient."""

from typing import Any

import torch
from torch import Tensor

from ..checks import check, check_bits, check_dense, check_order, check_same_device
from ..operands import LearnedStep, schema_of, takes
from ..scheme import check_quantizer
from .registry import (
    call_backward,
    call_with_gradient,
    define,
    dense,
    differentiate,
    laid_out,
    no_mask,
    refuse_again,
)


@takes(LearnedStep)
def _check(s: LearnedStep, gradient_scale: float) -> None:
    """One step for all of x, or one for each channel."""
    x, mask, step, zero_point, levels = s
    check_dense("x", x)
    check("mask", mask, torch.uint8)
    if mask.numel():
        check_bits("mask", mask, x.numel(), "elements")
    check_same_device("mask", mask, x)
    channels = x.shape[0] if x.dim() else 1
    check("step", step, torch.float32)
    if step.dim() != 1 or step.numel() not in (1, channels) or step.numel() == 0:
        raise ValueError(f"step has shape {list(step.shape)}, but must have [1] or [{channels}]")
    if step.numel() > 1:
        check_order("x", x)
    check("zero_point", zero_point, torch.float32, tuple(step.shape))
    for name, other in (("step", step), ("zero_point", zero_point)):
        check_order(name, other)
        check_same_device(name, other, x)
    check_quantizer(levels, 0)


@takes(LearnedStep, at=1)
def _check_backward(grad: Tensor, s: LearnedStep, gradient_scale: float) -> None:
    """The gradient lies in memory as x does."""
    x = s.x
    _check(*s, gradient_scale)
    check("grad", grad, x.dtype, tuple(x.shape))
    check_same_device("grad", grad, x)
    if grad.stride() != x.stride():
        raise ValueError(f"grad has strides {list(grad.stride())}, but x has {list(x.stride())}")


_STEP = schema_of(LearnedStep)
define(
    f"fake_quant_learned_step({_STEP}, float gradient_scale) -> Tensor",
    _check,
    lambda x, *_: torch.empty_like(x),
)
define(
    f"fake_quant_learned_step_backward(Tensor grad, {_STEP}, float gradient_scale)"
    " -> (Tensor, Tensor)",
    _check_backward,
    lambda grad, x, mask, step, *_: (torch.empty_like(x), torch.empty_like(step)),
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    x, mask, step, zero_point, ctx.levels, ctx.gradient_scale = inputs
    ctx.save_for_backward(x, mask, step, zero_point)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, mask, step, zero_point = ctx.saved_tensors
    grad = laid_out(grad, x.shape, x.stride())
    grad_x, grad_step = call_backward(
        "fake_quant_learned_step_backward",
        *(grad, x, mask, step, zero_point, ctx.levels, ctx.gradient_scale),
    )
    return grad_x, None, grad_step, None, None, None


differentiate("fake_quant_learned_step", _gradient, _save)
refuse_again("fake_quant_learned_step_backward", "rounding to a learned step")

_OP = torch.ops.micronet


def fake_quant_learned_step(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    levels: int,
    mask: Tensor | None = None,
    gradient_scale: float = 1.0,
) -> Tensor:
    """x rounded to whole multiples i of a learned step, zero <= i <= zero + levels - 1.

    `step` and the whole `zero_point` float32 [1] serve all of x, or [C] each channel of dimension
    0 of a contiguous x; `mask` holds packed bits of x, 0 where pruned. The value is i / S with
    S = 1 / step. Gradient to x: 1 strictly between the ends and kept, else 0; to the step,
    times `gradient_scale`: the sum of i - S*x between the ends and of i beyond, in a fixed order.
    x itself is kept for backward. Raises ValueError for sizes or levels, TypeError for a dtype.
    Source: learned step size quantization, Esser et al. 2020, equations 1 to 3.
    """
    # A proxy of torch.fx does not say how many steps there are; contiguous suits any number.
    is_one = isinstance(step, Tensor) and step.numel() == 1
    x = dense(x) if is_one else x.contiguous()
    mask = no_mask(x, mask)
    return call_with_gradient(
        "fake_quant_learned_step", x, mask, step, zero_point, levels, gradient_scale
    )
