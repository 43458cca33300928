"""The backward pass of a depthwise convolution, from the codes of its input or from values."""

import torch
from torch import Tensor

from ..checks import (
    check,
    check_codes,
    check_float,
    check_images,
    check_same_device,
    check_sizes,
)
from ..operands import DepthwiseGradient, schema_of, takes
from ..scheme import check_quantizer
from .registry import define, empty


@takes(DepthwiseGradient)
def _check(d: DepthwiseGradient) -> None:
    """x is codes, two a byte where the table has at most 16 entries, or float32 images."""
    check_sizes("input_size", d.input_size, 4, 1)
    check_sizes("stride", d.stride, 2, 1)
    check_sizes("padding", d.padding, 4, 0)
    check_sizes("dilation", d.dilation, 2, 1)
    channels = d.input_size[1]
    check("w", d.w, torch.float32)
    if d.w.dim() != 4 or d.w.shape[:2] != (channels, 1) or not d.w.is_contiguous():
        raise ValueError(f"w has shape {list(d.w.shape)}, but must have [{channels}, 1, KH, KW]")
    check_float("grad", d.grad)
    check_images("grad", d.grad)
    check("grad", d.grad, d.grad.dtype, d.shape.output_size)
    check("table", d.table, torch.float32)
    _check_convolved(d)
    for name, other in (("x", d.x), ("table", d.table), ("w", d.w)):
        check_same_device(name, other, d.grad)


def _check_convolved(d: DepthwiseGradient) -> None:
    if d.x.dtype != torch.uint8:
        check("x", d.x, torch.float32, tuple(d.input_size))
        check_images("x", d.x)
        return
    check_quantizer(d.table.numel(), 0)
    n, c, h, w = d.input_size
    check_codes(d.x, n * c * h * w, d.table.numel())


@takes(DepthwiseGradient)
def _fake(d: DepthwiseGradient) -> tuple[Tensor, Tensor]:
    grad_x = empty(d.grad, tuple(d.input_size) if d.wants_x else (0,), d.grad.dtype)
    if d.wants_x:
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    return grad_x, empty(d.grad, d.w.shape if d.wants_w else (0,), torch.float32)


define(f"depthwise_gradient({schema_of(DepthwiseGradient)}) -> (Tensor, Tensor)", _check, _fake)
