"""What follows a convolution in a block, from its accumulators: values, codes, extremes, sums."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import Affine, Coding, takes
from ...scheme import code_bytes
from .function import activate, fma
from .lanes import LANES, sum_lanes
from .launch import codes_in_a_byte, given, launch, row_and_columns
from .moving_range import store_extremes
from .quantizer import load_quantizer, quantize

# Elements that a program takes, and channels, where one sums over positions.
TILE = 1024
CHANNELS = 64
# Positions that a program adds up before their sums meet others.
ROWS = 512
# How rows are cut for sums: positions of a program, lanes of them, channels.
CUT = (ROWS, LANES, CHANNELS)


class Sizes(NamedTuple):
    """Of accumulators [N, C, H, W], flat."""

    numel: int
    image: int  # elements of an image
    channels: int

    @classmethod
    def of(cls, acc: Tensor) -> "Sizes":
        return cls(acc.numel(), acc.numel() // acc.shape[0], acc.shape[1])


class Rows(NamedTuple):
    """Of accumulators as rows of channels, and of how they are cut for sums."""

    rows: int
    positions: int  # rows of an image
    channels: int
    blocks: int  # of channels

    @classmethod
    def of(cls, acc: Tensor) -> "Rows":
        images, channels, height, width = acc.shape
        positions = height * width
        return cls(images * positions, positions, channels, triton.cdiv(channels, CHANNELS))


def constant(affine: Affine) -> Affine:
    """The operands of a kernel that is compiled for their function."""
    return affine._replace(function=tl.constexpr(int(affine.function)))


@triton.jit
def preactivation(affine, element, channel, here) -> tl.tensor:
    """z = fma(acc, scale, shift)."""
    wide = tl.load(affine.scale + channel, mask=here, other=0.0)
    offset = tl.load(affine.shift + channel, mask=here, other=0.0)
    found = tl.load(affine.acc + element, mask=here, other=0).to(tl.float32)
    return fma(found, wide, offset)


@triton.jit
def value_of(affine, gate, element, sizes, here) -> tl.tensor:
    """function(z), times the gate [N, C]."""
    channel = element % sizes.channels
    value = activate(preactivation(affine, element, channel, here), affine.function)
    if gate is not None:
        image = element // sizes.image
        value = value * tl.load(gate + image * sizes.channels + channel, mask=here, other=0.0)
    return value


@triton.jit
def values_kernel(affine, gate, y, sizes, TILE: tl.constexpr) -> None:
    """y of accumulators [N, positions, C], flat."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < sizes.numel
    tl.store(y + element, value_of(affine, gate, element, sizes, here), mask=here)


@triton.jit
def extremes_of_block_kernel(affine, gate, partial, sizes, TILE: tl.constexpr) -> None:
    """partial [2, programs]: the extremes of the values of each tile."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < sizes.numel
    found = value_of(affine, gate, element, sizes, here)
    least = tl.where(here, found, float("inf"))
    store_extremes(partial, least, tl.where(here, found, float("-inf")))


@triton.jit(do_not_specialize=["levels"])
def block_codes_kernel(
    affine,
    gate,
    ends,
    packed,
    sizes,
    levels,
    SCHEME: tl.constexpr,
    EACH: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """packed [numel / EACH]: the codes of EACH neighboring values in a byte."""
    _, _, code_scale, zero, low, high = load_quantizer(ends, levels, SCHEME)
    byte = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    all_of_byte = tl.zeros((TILE,), tl.int32)
    for part in tl.static_range(EACH):
        element = EACH * byte + part
        here = element < sizes.numel
        found = value_of(affine, gate, element, sizes, here)
        whole = quantize(found, code_scale, zero, low, high)
        code = tl.where(here & (whole == whole), whole - low, 0.0).to(tl.int32)
        all_of_byte = all_of_byte | (code << (4 * part))
    tl.store(packed + byte, all_of_byte.to(tl.uint8), mask=EACH * byte < sizes.numel)


@triton.jit
def positions_from(first, image, column, sizes, LANES: tl.constexpr) -> tuple[tl.tensor, ...]:
    """LANES positions of an image from `first` on: elements, their channels, which are there."""
    position = first + tl.arange(0, LANES)[:, None]
    channel = column[None, :]
    element = (image * sizes.positions + position) * sizes.channels + channel
    here = (position < sizes.positions) & (channel < sizes.channels)
    # Each operand of the shape of both, as `fma` wants them.
    return element, channel + tl.zeros_like(element).to(tl.int32), here


@triton.jit
def block_means_kernel(affine, means, sizes, LANES: tl.constexpr, CHANNELS: tl.constexpr) -> None:
    """means [N, C] of the values over the positions, by lanes; a program takes some channels."""
    image, column = row_and_columns(sizes.blocks, CHANNELS)
    lanes = tl.zeros((LANES, CHANNELS), tl.float32)
    first = 0
    while first < sizes.positions:
        element, channel, here = positions_from(first, image, column, sizes, LANES)
        found = activate(preactivation(affine, element, channel, here), affine.function)
        lanes = lanes + tl.where(here, found, 0.0)
        first += LANES
    total = sum_lanes(lanes, CHANNELS)
    mean = tl.div_rn(total, tl.full((CHANNELS,), sizes.positions, tl.float32))
    tl.store(means + image * sizes.channels + column, mean, mask=column < sizes.channels)


@triton.jit
def part_of(sizes, CUT: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The part of the rows that a program sums, its channels, and where its rows begin and end."""
    ROWS: tl.constexpr = CUT[0]
    CHANNELS: tl.constexpr = CUT[2]
    part, channel = row_and_columns(sizes.blocks, CHANNELS)
    return part, channel, part * ROWS, tl.minimum(part * ROWS + ROWS, sizes.rows)


@triton.jit
def no_sums(CUT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Two sums by lane and channel, before the first row."""
    LANES: tl.constexpr = CUT[1]
    CHANNELS: tl.constexpr = CUT[2]
    zero = tl.zeros((LANES, CHANNELS), tl.float64)
    return zero, zero


@triton.jit
def rows_from(start, last, column, sizes, CUT: tl.constexpr) -> tuple[tl.tensor, ...]:
    """A row for each lane from `start` on: elements, their channels and images, which are there.

    The images are [LANES, 1], the others [LANES, CHANNELS], as `fma` wants them.
    """
    LANES: tl.constexpr = CUT[1]
    row = (start + tl.arange(0, LANES))[:, None]
    here = (row < last) & (column < sizes.channels)[None, :]
    element = row * sizes.channels + column[None, :]
    return element, element % sizes.channels, row // sizes.positions, here


@triton.jit
def store_sums(partial, part, first, second, channel, channels) -> None:
    """Two sums over lanes [LANES, CHANNELS] into partial [parts, 2, C]."""
    at = partial + part * 2 * channels + channel
    tl.store(at, tl.sum(first, axis=0), mask=channel < channels)
    tl.store(at + channels, tl.sum(second, axis=0), mask=channel < channels)


@triton.jit
def moments_kernel(acc, partial, sizes, CUT: tl.constexpr) -> None:
    """partial [parts, 2, C]: float64 sums of the accumulators of a part, and of squares."""
    part, column, start, last = part_of(sizes, CUT)
    first, second = no_sums(CUT)
    while start < last:
        element, _, _, here = rows_from(start, last, column, sizes, CUT)
        found = tl.load(acc + element, mask=here, other=0).to(tl.float64)
        first = first + found
        second = second + found * found
        start += CUT[1]
    store_sums(partial, part, first, second, column, sizes.channels)


def new_images(acc: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Fresh images like acc, channels last."""
    return torch.empty_like(acc, dtype=dtype)


@takes(Affine)
def block_values(affine: Affine, gate: Tensor) -> Tensor:
    """The values [N, C, H, W], float32, channels last."""
    y, sizes = new_images(affine.acc), Sizes.of(affine.acc)
    programs = triton.cdiv(sizes.numel, TILE)
    launch(values_kernel, programs, constant(affine), given(gate), y, sizes, TILE=TILE)
    return y


@takes(Affine)
def block_extremes(affine: Affine, gate: Tensor) -> Tensor:
    """The least and the largest value [2], both NaN where one is."""
    sizes = Sizes.of(affine.acc)
    programs = triton.cdiv(sizes.numel, TILE)
    partial = affine.scale.new_empty((2, programs))
    operands = (constant(affine), given(gate), partial)
    launch(extremes_of_block_kernel, programs, *operands, sizes, TILE=TILE)
    return torch.stack([partial[0].amin(), partial[1].amax()]) + 0.0


@takes(Coding, at=5)
@takes(Affine)
def block_codes(affine: Affine, gate: Tensor, coding: Coding) -> Tensor:
    """Codes of the values, packed, channels last; 0 where a value is not finite."""
    sizes, levels = Sizes.of(affine.acc), coding.levels
    packed = affine.acc.new_empty(code_bytes(sizes.numel, levels), dtype=torch.uint8)
    programs = triton.cdiv(packed.numel(), TILE)
    operands = (constant(affine), given(gate), coding.range, packed)
    constants = {"SCHEME": int(coding.scheme), "EACH": codes_in_a_byte(levels), "TILE": TILE}
    launch(block_codes_kernel, programs, *operands, sizes, levels, **constants)
    return packed


@takes(Affine)
def block_means(affine: Affine) -> Tensor:
    """Means over the positions [N, C], summed in float32 by lanes of positions."""
    means, sizes = affine.scale.new_empty(affine.acc.shape[:2]), Rows.of(affine.acc)
    programs = affine.acc.shape[0] * sizes.blocks
    tile = {"LANES": LANES, "CHANNELS": CHANNELS}
    launch(block_means_kernel, programs, constant(affine), means, sizes, **tile)
    return means


def sum_parts(kernel: Any, acc: Tensor, *operands: Any, **constants: Any) -> Tensor:
    """The two sums by channel, float64 [2, C], by a kernel that finds those of parts of rows."""
    sizes = Rows.of(acc)
    partial = acc.new_empty((triton.cdiv(sizes.rows, ROWS), 2, sizes.channels), dtype=torch.float64)
    programs = len(partial) * sizes.blocks
    launch(kernel, programs, *operands, partial, sizes, CUT=CUT, **constants)
    return partial.sum(0)


def channel_moments(acc: Tensor) -> Tensor:
    """Sums of the accumulators and of their squares by channel, float64 [2, C]."""
    return sum_parts(moments_kernel, acc, acc)
