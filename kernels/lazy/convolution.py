"""A convolution of codes: what it is called with, and its sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

    def is_pointwise(self, w: Tensor) -> bool:
        """Whether an output is a sum over the channels of its own pixel."""
        numbers = w.shape[2:], self.stride, self.padding, self.groups
        return numbers == ((1, 1), (1, 1), (0, 0, 0, 0), 1)

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
