"""What follows a convolution in a block, from its accumulators: values, codes, extremes, sums."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import Scheme, packed_bytes
from .function import activate, fma
from .lanes import LANES, sum_lanes
from .launch import launch
from .moving_range import store_extremes
from .quantizer import make_quantizer, quantize

# Elements that a program takes, and channels, where one sums over positions.
TILE = 1024
CHANNELS = 64
# Positions that a program adds up before their sums meet others.
ROWS = 512

_AFFINE = tl.constexpr(int(Scheme.AFFINE))


@triton.jit
def preactivation(acc, scale, shift, element, channel, here) -> tl.tensor:
    """z = fma(acc, scale, shift)."""
    wide = tl.load(scale + channel, mask=here, other=0.0)
    offset = tl.load(shift + channel, mask=here, other=0.0)
    found = tl.load(acc + element, mask=here, other=0).to(tl.float32)
    return fma(found, wide, offset)


@triton.jit
def value_of(
    acc,
    scale,
    shift,
    gate,
    element,
    size,
    channels,
    here,
    FUNCTION: tl.constexpr,
    HAS_GATE: tl.constexpr,
) -> tl.tensor:
    """function(z), times the gate [N, C]; `size` elements are an image."""
    channel = element % channels
    value = activate(preactivation(acc, scale, shift, element, channel, here), FUNCTION)
    if HAS_GATE:
        image = element // size
        value = value * tl.load(gate + image * channels + channel, mask=here, other=0.0)
    return value


@triton.jit
def values_kernel(
    acc,
    scale,
    shift,
    gate,
    y,
    numel,
    size,
    channels,
    FUNCTION: tl.constexpr,
    HAS_GATE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """y of accumulators [N, positions, C], flat."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < numel
    found = value_of(acc, scale, shift, gate, element, size, channels, here, FUNCTION, HAS_GATE)
    tl.store(y + element, found, mask=here)


@triton.jit
def extremes_of_block_kernel(
    acc,
    scale,
    shift,
    gate,
    partial,
    numel,
    size,
    channels,
    FUNCTION: tl.constexpr,
    HAS_GATE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """partial [2, programs]: the extremes of the values of each tile."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < numel
    found = value_of(acc, scale, shift, gate, element, size, channels, here, FUNCTION, HAS_GATE)
    least = tl.where(here, found, float("inf"))
    store_extremes(partial, least, tl.where(here, found, float("-inf")))


@triton.jit(do_not_specialize=["levels"])
def block_codes_kernel(
    acc,
    scale,
    shift,
    gate,
    ends,
    packed,
    numel,
    size,
    channels,
    levels,
    FUNCTION: tl.constexpr,
    HAS_GATE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """packed [numel / 2]: the codes of two neighboring values in each byte."""
    _, _, code_scale, zero, low, high = make_quantizer(
        tl.load(ends), tl.load(ends + 1), levels, _AFFINE
    )
    byte = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    both = tl.zeros((TILE,), tl.int32)
    for half in tl.static_range(2):
        element = 2 * byte + half
        here = element < numel
        found = value_of(acc, scale, shift, gate, element, size, channels, here, FUNCTION, HAS_GATE)
        whole = quantize(found, code_scale, zero, low, high)
        code = tl.where(here & (whole == whole), whole, 0.0).to(tl.int32)
        both = both | (code << (4 * half))
    tl.store(packed + byte, both.to(tl.uint8), mask=2 * byte < numel)


@triton.jit
def block_means_kernel(
    acc,
    scale,
    shift,
    means,
    positions,
    channels,
    blocks,
    FUNCTION: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """means [N, C] of the values over the positions, by lanes; a program takes some channels."""
    image = tl.program_id(0).to(tl.int64) // blocks
    channel = (tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    lane = tl.arange(0, LANES)[:, None]
    lanes = tl.zeros((LANES, CHANNELS), tl.float32)
    first = 0
    while first < positions:
        here = (first + lane < positions) & (channel < channels)
        element = (image * positions + first + lane) * channels + channel
        # Each operand of the shape of both, as `fma` wants them.
        wide = channel + tl.zeros_like(element).to(tl.int32)
        found = activate(preactivation(acc, scale, shift, element, wide, here), FUNCTION)
        lanes = lanes + tl.where(here, found, 0.0)
        first += LANES
    total = sum_lanes(lanes, CHANNELS)
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    mean = tl.div_rn(total, tl.full((CHANNELS,), positions, tl.float32))
    tl.store(means + image * channels + column, mean, mask=column < channels)


@triton.jit
def store_sums(partial, part, first, second, channel, channels) -> None:
    """Two sums over lanes [LANES, CHANNELS] into partial [parts, 2, C]."""
    at = partial + part * 2 * channels + channel
    tl.store(at, tl.sum(first, axis=0), mask=channel < channels)
    tl.store(at + channels, tl.sum(second, axis=0), mask=channel < channels)


@triton.jit
def moments_kernel(
    acc,
    partial,
    rows,
    channels,
    blocks,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """partial [parts, 2, C]: float64 sums of the accumulators of ROWS rows, and of squares."""
    part = tl.program_id(0).to(tl.int64) // blocks
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.zeros((LANES, CHANNELS), tl.float64)
    second = tl.zeros((LANES, CHANNELS), tl.float64)
    start = part * ROWS
    last = tl.minimum(start + ROWS, rows)
    while start < last:
        row = (start + tl.arange(0, LANES))[:, None]
        here = (row < last) & (channel < channels)[None, :]
        element = row * channels + channel[None, :]
        found = tl.load(acc + element, mask=here, other=0).to(tl.float64)
        first = first + found
        second = second + found * found
        start += LANES
    store_sums(partial, part, first, second, channel, channels)


def flat_sizes(acc: Tensor) -> tuple[int, int, int]:
    """Elements, elements of an image, and channels, of accumulators [N, C, H, W]."""
    return acc.numel(), acc.numel() // acc.shape[0], acc.shape[1]


def new_images(acc: Tensor) -> Tensor:
    """Fresh float32 images like acc, channels last."""
    return torch.empty_like(acc, dtype=torch.float32)


def _whole(function: int, gate: Tensor) -> dict[str, int | bool]:
    return {"FUNCTION": function, "HAS_GATE": gate.numel() > 0, "TILE": TILE}


def block_values(acc: Tensor, scale: Tensor, shift: Tensor, function: int, gate: Tensor) -> Tensor:
    """The values [N, C, H, W], float32, channels last."""
    y, sizes = new_images(acc), flat_sizes(acc)
    programs = triton.cdiv(acc.numel(), TILE)
    launch(values_kernel, programs, acc, scale, shift, gate, y, *sizes, **_whole(function, gate))
    return y


def block_extremes(
    acc: Tensor, scale: Tensor, shift: Tensor, function: int, gate: Tensor
) -> Tensor:
    """The least and the largest value [2], both NaN where one is."""
    programs = triton.cdiv(acc.numel(), TILE)
    partial = scale.new_empty((2, programs))
    sizes, constants = flat_sizes(acc), _whole(function, gate)
    launch(
        extremes_of_block_kernel, programs, acc, scale, shift, gate, partial, *sizes, **constants
    )
    return torch.stack([partial[0].amin(), partial[1].amax()]) + 0.0


def block_codes(
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    gate: Tensor,
    range: Tensor,
    levels: int,
) -> Tensor:
    """Codes of the values, two a byte, channels last; 0 where a value is not finite."""
    packed = acc.new_empty(packed_bytes(acc.numel(), 16), dtype=torch.uint8)
    sizes, constants = flat_sizes(acc), _whole(function, gate)
    programs = triton.cdiv(packed.numel(), TILE)
    operands = (acc, scale, shift, gate, range, packed)
    launch(block_codes_kernel, programs, *operands, *sizes, levels, **constants)
    return packed


def block_means(acc: Tensor, scale: Tensor, shift: Tensor, function: int) -> Tensor:
    """Means over the positions [N, C], summed in float32 by lanes of positions."""
    images, channels = acc.shape[:2]
    means, blocks = scale.new_empty((images, channels)), triton.cdiv(channels, CHANNELS)
    positions = acc.numel() // (images * channels)
    launch(
        block_means_kernel,
        images * blocks,
        acc,
        scale,
        shift,
        means,
        positions,
        channels,
        blocks,
        FUNCTION=function,
        LANES=LANES,
        CHANNELS=CHANNELS,
    )
    return means


def channel_moments(acc: Tensor) -> Tensor:
    """Sums of the accumulators and of their squares by channel, float64 [2, C]."""
    channels = acc.shape[1]
    rows, blocks = acc.numel() // channels, triton.cdiv(channels, CHANNELS)
    partial = acc.new_empty((triton.cdiv(rows, ROWS), 2, channels), dtype=torch.float64)
    programs = len(partial) * blocks
    tile = {"ROWS": ROWS, "LANES": LANES, "CHANNELS": CHANNELS}
    launch(moments_kernel, programs, acc, partial, rows, channels, blocks, **tile)
    return partial.sum(0)
