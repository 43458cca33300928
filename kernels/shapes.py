"""Geometry of convolutions over codes, and how wide their sums are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

# The largest magnitudes that int16 and int32 hold.
MOST_INT16, MOST_INT32 = 2**15 - 1, 2**31 - 1


class ConvShape(NamedTuple):
    """Sizes of a convolution: [N, C, H, W] with [O, C / groups, KH, KW] into `output_size`."""

    input_size: tuple[int, int, int, int]
    output_size: tuple[int, int, int, int]
    depth: int  # products that make one output

    @classmethod
    def of(
        cls,
        input_size: Sequence[int],
        weight_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> "ConvShape":
        """The shape for (y, x) strides and dilations, and padding (top, left, bottom, right).

        Raises ValueError where the sizes do not fit each other.
        """
        n, c, height, width = input_size
        out, group_channels, *kernel = weight_size
        if c != group_channels * groups or out % groups:
            raise ValueError(
                f"weights {list(weight_size)} in {groups} groups do not fit {c} channels"
            )
        top, left, bottom, right = padding
        sizes = zip(
            (height + top + bottom, width + left + right), kernel, stride, dilation, strict=True
        )
        y, x = ((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in sizes)
        if min(y, x) < 1:
            raise ValueError(f"an input of {height} by {width} is smaller than the kernel {kernel}")
        return cls((n, c, height, width), (n, out, y, x), group_channels * kernel[0] * kernel[1])


def accumulator_bound(depth: int, levels: int, weight_levels: int) -> int:
    """The largest magnitude of a sum of `depth` products, whatever the input and the weights."""
    return (levels - 1) * (weight_levels - 1) * depth


def fits_32_bits(depth: int, levels: int, weight_levels: int) -> bool:
    """Whether 32 bits hold every sum of `depth` products of integers of so many levels."""
    return accumulator_bound(depth, levels, weight_levels) <= MOST_INT32


def accumulator_dtype(shape: ConvShape, levels: int, weight_levels: int) -> torch.dtype:
    """The narrower of int16 and int32 that holds every sum; ValueError where neither does."""
    bound = accumulator_bound(shape.depth, levels, weight_levels)
    if not fits_32_bits(shape.depth, levels, weight_levels):
        raise ValueError(f"sums of {shape.depth} products may reach {bound}, beyond 32 bits")
    return torch.int16 if bound <= MOST_INT16 else torch.int32


def strides_of(size: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """The strides of dense images [N, C, H, W] in one of torch's two orders of memory."""
    _, c, h, w = size
    return (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


def in_order(t: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Images in one of torch's two orders of memory, with the very strides of `strides_of`."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    t = t.contiguous(memory_format=order)
    strides = strides_of(t.shape, channels_last)
    # Where a size is 1 torch takes any stride for either order.
    return t if t.stride() == strides else t.as_strided(t.shape, strides)


def is_channels_last(t: torch.Tensor) -> bool:
    """Whether torch takes a tensor's order of memory for channels last, also where sizes are 1.

    Source: c10::is_channels_last_strides_2d, which decides the order of a convolution's output.
    """
    if t.dim() != 4:
        return False
    size, strides = t.shape, t.stride()
    smallest = 0
    for axis in (1, 3, 2, 0):
        if size[axis] == 0 or strides[axis] < smallest:
            return False
        # Where all sizes but the first are 1, either order fits; torch says the other one.
        if axis == 0 and smallest == strides[1]:
            return False
        smallest = strides[axis] * max(size[axis], 1)
    return strides[1] != 0
