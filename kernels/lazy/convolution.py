"""A convolution of codes: what it is called with, and its backward pass over the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scheme import Scheme
from .block import Block

_OP = torch.ops.micronet


@dataclass(frozen=True)
class ConvCall:
    """The numbers of a convolution: (y, x) sizes, padding (top, left, bottom, right)."""

    levels: int
    weight_levels: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def arguments(self, x: QuantizedInput, w: Tensor, mask: Tensor) -> tuple[Any, ...]:
        """The arguments of the operator `quant_conv2d`."""
        return self.arguments_on_codes(x.codes, x.range, x.size, w, mask)

    def arguments_on_codes(
        self, codes: Tensor, range: Tensor, size: torch.Size, w: Tensor, mask: Tensor
    ) -> tuple[Any, ...]:
        """The same from codes, their range and the size [N, C, H, W] of the images."""
        sizes = [list(size), *map(list, (self.stride, self.padding, self.dilation))]
        return codes, range, self.levels, w, mask, self.weight_levels, *sizes, self.groups


@dataclass(frozen=True)
class QuantizedInput:
    """What a convolution reads: codes, two a byte, channels last, and the range they stand for.

    Attributes:
        source: [N, C, H, W], the tensor that was rounded; gradients to the values go there.
        codes: packed, uint8.
        range: [2].
        passes: where a gradient passes: inside the range of a block's values, or where a bit says.
        size: [N, C, H, W].
    """

    source: Tensor
    codes: Tensor
    range: Tensor
    passes: Block | Tensor
    size: torch.Size


def backward_precision(device_type: str) -> torch.dtype:
    """The dtype that a backward convolution computes in: that of torch.autocast, where it is on."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return torch.float32


def sums_of(
    codes: Tensor, range: Tensor, size: torch.Size, w: Tensor, mask: Tensor, call: ConvCall
) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'] of `quant_conv2d` and the step [O] between their values."""
    arguments = call.arguments_on_codes(codes, range, size, w.contiguous(), mask)
    return _OP.quant_conv2d.default(*arguments)


def unpacked(
    codes: Tensor, range: Tensor, levels: int, size: torch.Size, dtype: torch.dtype
) -> Tensor:
    """The values that codes stand for, [N, C, H, W] of a dtype, channels last."""
    n, c, h, w = size
    flat = _OP.dequantize_per_tensor.default(
        codes, range, size.numel(), levels, int(Scheme.AFFINE), dtype
    )
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def convolution_backward(
    grad: Tensor, x: Tensor, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of an ordinary convolution over the values to x and to w, None if not wanted.

    All of them in one dtype; the one to x is channels last.
    """
    top, left, bottom, right = call.padding
    is_even = (top, left) == (bottom, right)
    padding = [top, left] if is_even else [0, 0]
    height, width = x.shape[2:]
    if not is_even:
        x = F.pad(x, [left, right, top, bottom])
    w = w.contiguous(memory_format=torch.channels_last)
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward.default(
        grad.contiguous(memory_format=torch.channels_last),
        x,
        w,
        None,
        list(call.stride),
        padding,
        list(call.dilation),
        False,
        [0, 0],
        call.groups,
        [*wanted, False],
    )
    del x  # before another tensor as large is made
    if grad_x is not None and not is_even:
        grad_x = grad_x[:, :, top : top + height, left : left + width]
    if grad_x is not None:
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    return grad_x, grad_w
