"""Convolution of codes: integer sums of products, by taps in registers or by tiles of a product.

Codes are dequantized to their integers while a tile is loaded; they are never unpacked in memory.
Products of tiles are of signed bytes: what codes and weights lack of their integers there is the
same in all of a channel, and is added to the sums.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import CodesConvolution, takes
from ...scheme import Scheme
from ...shapes import accumulator_dtype
from .fake_quant_weight import quantize_per_channel
from .geometry import Geometry, corner_of, tap_of
from .launch import codes_in_a_byte, given, launch, row_and_columns
from .quantizer import load_quantizer
from .tiles import DEPTHWISE_TILES, PRODUCT_TILES, Tile
from .tuning import choose, device_name

# What codes of a byte each are less where they are multiplied.
BYTE_SHIFT = 128
_BYTE_SHIFT = tl.constexpr(BYTE_SHIFT)


@triton.jit
def _finite_or_zero(zero_point):
    return tl.where(zero_point * 0.0 == 0.0, zero_point, 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["levels"])
def conv_ratio_kernel(
    ends, scale, ratio, levels, outputs, SCHEME: tl.constexpr, TILE: tl.constexpr
) -> None:
    """ratio [O] = 1 / (S_x * S_w)."""
    _, _, of_input, _, _, _ = load_quantizer(ends, levels, SCHEME)
    channel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    here = channel < outputs
    both = of_input * tl.load(scale + channel, mask=here, other=1.0)
    tl.store(ratio + channel, tl.div_rn(tl.full((TILE,), 1.0, tl.float32), both), mask=here)


@triton.jit
def _input_zero_point(ends, levels, CODES: tl.constexpr):
    SCHEME: tl.constexpr = CODES[0]
    _, _, _, zero, _, _ = load_quantizer(ends, levels, SCHEME)
    return _finite_or_zero(zero)


@triton.jit
def _integers(codes, element, here, zero, CODES: tl.constexpr):
    """The integers of codes, 0 where there is no image; CODES is (scheme, codes in a byte)."""
    if CODES[1] == 2:
        both = tl.load(codes + (element >> 1), mask=here, other=0).to(tl.int32)
        code = (both >> ((element & 1).to(tl.int32) * 4)) & 15
    else:
        code = tl.load(codes + element, mask=here, other=0).to(tl.int32)
    return tl.where(here, code + zero, 0)


@triton.jit
def _store(out, ratio, total, element, channel, here):
    """Sums as they are, or times the ratio of their channel unless that is None."""
    if ratio is not None:
        value = total.to(tl.float32) * tl.load(ratio + channel, mask=channel >= 0, other=0.0)
        tl.store(out + element, value, mask=here)
    else:
        tl.store(out + element, total.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["levels"])
def depthwise_kernel(
    codes, ends, w, ratio, out, g, levels, blocks, CODES: tl.constexpr, TILE: tl.constexpr
) -> None:
    """out [pixels, C] by integers w [taps, C]; a pruned weight is a zero in a register.

    TILE is how many pixels and channels a program takes.
    """
    PIXELS: tl.constexpr = TILE[0]
    CHANNELS: tl.constexpr = TILE[1]
    zero = _input_zero_point(ends, levels, CODES)
    row, channel = row_and_columns(blocks, CHANNELS)
    pixel = row * PIXELS + tl.arange(0, PIXELS)
    here = channel < g.channels
    corner = corner_of(pixel, g)
    total = tl.zeros((PIXELS, CHANNELS), tl.int32)
    tap = 0
    while tap < g.kernel_height * g.kernel_width:
        source, inside = tap_of(pixel, corner, tap, g)
        element = source[:, None] * g.channels + channel[None, :]
        found = _integers(codes, element, inside[:, None] & here[None, :], zero, CODES)
        weight = tl.load(w + tap * g.channels + channel, mask=here, other=0).to(tl.int32)
        total += found * weight[None, :]
        tap += 1
    element = pixel[:, None] * g.channels + channel[None, :]
    both = (pixel < g.pixels)[:, None] & here[None, :]
    column = tl.where(here, channel, 0)[None, :]
    _store(out, ratio, total, element, column, both)


@triton.jit
def _byte_integers(codes, element, inside, there, zero, CODES: tl.constexpr):
    """Integers as signed bytes, 0 where no such channel is; of bytes less BYTE_SHIFT + zero."""
    found = _integers(codes, element, inside & there, zero, CODES)
    if CODES[1] == 1:
        found = tl.where(there, found - (zero + _BYTE_SHIFT), 0)
    return found


@triton.jit
def _outputs_of(block, blocks, g, OUTPUTS: tl.constexpr):
    """The group of a block, its outputs [OUTPUTS], and which of them the group has."""
    per_group, blocks_per_group = g.outputs // g.groups, blocks // g.groups
    group = block // blocks_per_group
    in_group = block % blocks_per_group * OUTPUTS + tl.arange(0, OUTPUTS)
    return group, group * per_group + in_group, in_group < per_group


@triton.jit(do_not_specialize=["levels"])
def product_kernel(
    codes,
    ends,
    w,  # bytes [O, taps, C / groups]
    sums,  # [O], of the integers of w
    offset,  # [O], what the bytes of w lack of them, or None
    has_weights,  # [output blocks, taps, depth blocks]: whether a tile of w holds any
    ratio,
    out,
    g,
    levels,
    blocks,
    CODES: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """out [pixels, O]: for each tap a product of tiles, left out where all weights are pruned.

    TILE is how many pixels, outputs and inputs a program multiplies at a time.
    """
    PIXELS: tl.constexpr = TILE[0]
    OUTPUTS: tl.constexpr = TILE[1]
    DEPTH: tl.constexpr = TILE[2]
    zero = _input_zero_point(ends, levels, CODES)
    block = tl.program_id(0) % blocks
    group, output, is_output = _outputs_of(block, blocks, g, OUTPUTS)
    group_channels = g.channels // g.groups
    pixel = tl.program_id(0).to(tl.int64) // blocks * PIXELS + tl.arange(0, PIXELS)
    corner = corner_of(pixel, g)
    total = tl.zeros((PIXELS, OUTPUTS), tl.int32)
    of_pixel = tl.zeros((PIXELS,), tl.int32)
    taps, steps = g.kernel_height * g.kernel_width, tl.cdiv(group_channels, DEPTH)
    tap = 0
    while tap < taps:
        source, inside = tap_of(pixel, corner, tap, g)
        base = source * g.channels + group * group_channels
        step = 0
        while step < steps:
            if tl.load(has_weights + (block * taps + tap) * steps + step) != 0:
                c = step * DEPTH + tl.arange(0, DEPTH)
                there = c < group_channels
                element = base[:, None] + c[None, :]
                a = _byte_integers(codes, element, inside[:, None], there[None, :], zero, CODES)
                at = (output[None, :] * taps + tap) * group_channels + c[:, None]
                known = there[:, None] & is_output[None, :]
                b = tl.load(w + at, mask=known, other=0)
                total = tl.dot(a.to(tl.int8), b, total, out_dtype=tl.int32)
                if offset is not None:
                    of_pixel += tl.sum(a, axis=1)
            step += 1
        tap += 1
    element = pixel[:, None] * g.outputs + output[None, :]
    both = (pixel < g.pixels)[:, None] & is_output[None, :]
    column = tl.where(is_output, output, 0)
    if offset is not None:
        total += of_pixel[:, None] * tl.load(offset + column)[None, :]
    if CODES[1] == 1:
        total += ((zero + _BYTE_SHIFT) * tl.load(sums + column))[None, :]
    _store(out, ratio, total, element, column[None, :], both)


class Weights(NamedTuple):
    """The integers of weights [O, taps, C / groups], int16, and the scale [O] of each channel.

    A signed byte holds them less the offset [O], which is None where none needs one.
    """

    integers: Tensor
    scale: Tensor
    offset: Tensor | None

    @classmethod
    def of(cls, conv: CodesConvolution) -> "Weights":
        levels, scheme = conv.weight_levels, conv.weight_scheme
        operands = (conv.w, conv.mask, levels, scheme, given(conv.weight_steps))
        codes, scale, zero_point = quantize_per_channel(*operands)
        zero = torch.where(zero_point.isfinite(), zero_point, 0.0).to(torch.int16)
        whole = codes.flatten(2).to(torch.int16) + zero[:, None, None]
        # Symmetric ones and those of up to 128 levels about 0 fit a signed byte.
        needs = levels > BYTE_SHIFT and not Scheme(scheme).is_symmetric
        is_beyond = (zero < -BYTE_SHIFT) | (zero + levels > BYTE_SHIFT)
        offset = torch.where(is_beyond, zero + BYTE_SHIFT, 0).to(torch.int32) if needs else None
        return cls(whole.transpose(1, 2).contiguous(), scale, offset)

    def bytes(self) -> Tensor:
        """What of the integers is multiplied, int8."""
        less = self.integers if self.offset is None else self.integers - self.offset[:, None, None]
        return less.to(torch.int8)

    def sums(self) -> Tensor:
        """Of the integers of each output, [O]."""
        return self.integers.sum((1, 2), dtype=torch.int32)


def _tiles_with_weights(integers: Tensor, groups: int, tile: Tile) -> Tensor:
    """[groups * output blocks, taps, depth blocks], 1 where a tile has a weight that is not 0."""
    outputs, taps, depth = integers.shape
    by_group = integers.view(groups, outputs // groups, taps, depth)
    padding = [0, -depth % tile.depth, 0, 0, 0, -(outputs // groups) % tile.channels]
    padded = torch.nn.functional.pad(by_group, padding)
    tiles = padded.unflatten(3, (-1, tile.depth)).unflatten(1, (-1, tile.channels))
    return (tiles != 0).any(5).any(2).flatten(0, 1).to(torch.uint8).contiguous()


def _codes(conv: CodesConvolution) -> tuple[int, int]:
    """What kernels that read codes are compiled for: their scheme, and how many share a byte."""
    return int(conv.scheme), codes_in_a_byte(conv.levels)


def _ratio(conv: CodesConvolution, scale: Tensor) -> Tensor:
    """1 / (S_x * S_w), [O]."""
    ratio, tile, outputs = torch.empty_like(scale), 128, len(scale)
    operands = (conv.range, scale, ratio, conv.levels, outputs)
    constants = {"SCHEME": int(conv.scheme), "TILE": tile}
    launch(conv_ratio_kernel, triton.cdiv(outputs, tile), *operands, **constants)
    return ratio


def _depthwise(
    conv: CodesConvolution, g: Geometry, weights: Weights, factors, out, tile: Tile
) -> None:
    blocks = triton.cdiv(g.channels, tile.channels)
    by_tap = weights.integers[:, :, 0].t().contiguous()
    programs = triton.cdiv(g.pixels, tile.pixels) * blocks
    operands = (conv.codes, conv.range, by_tap, factors, out, g, conv.levels, blocks)
    constants = {"CODES": _codes(conv), "TILE": (tile.pixels, tile.channels), **tile.launch}
    launch(depthwise_kernel, programs, *operands, **constants)


def _product(
    conv: CodesConvolution, g: Geometry, weights: Weights, factors, out, tile: Tile
) -> None:
    blocks = g.groups * triton.cdiv(g.outputs // g.groups, tile.channels)
    used = _tiles_with_weights(weights.integers, g.groups, tile)
    # Sums of codes are of all of them.
    used = used if weights.offset is None else torch.ones_like(used)
    operands = (conv.codes, conv.range, weights.bytes(), weights.sums(), weights.offset, used)
    rest = (factors, out, g, conv.levels, blocks)
    programs = triton.cdiv(g.pixels, tile.pixels) * blocks
    sizes = (tile.pixels, tile.channels, tile.depth)
    constants = {"CODES": _codes(conv), "TILE": sizes, **tile.launch}
    launch(product_kernel, programs, *operands, *rest, **constants)


def _convolve(conv: CodesConvolution, as_values: bool) -> tuple[Tensor, Tensor]:
    g, weights = Geometry.of(conv), Weights.of(conv)
    ratio = _ratio(conv, weights.scale)
    sums = accumulator_dtype(conv.shape, conv.levels, conv.weight_levels)
    dtype = torch.float32 if as_values else sums
    out = conv.codes.new_empty((g.pixels, g.outputs), dtype=dtype)
    is_depthwise = g.groups == g.channels == g.outputs
    run = _depthwise if is_depthwise else _product
    operands = (conv, g, weights, ratio if as_values else None, out)
    name = f"{run.__name__.strip('_')}_{str(dtype).removeprefix('torch.')}"
    tiles = DEPTHWISE_TILES if is_depthwise else PRODUCT_TILES
    device = device_name(conv.codes.device)
    run(*operands, choose(name, g, tiles, lambda tile: run(*operands, tile), device))
    return g.images(out), ratio


@takes(CodesConvolution)
def quant_conv2d(conv: CodesConvolution) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'], channels last, and the ratio [O] that makes values of them."""
    return _convolve(conv, as_values=False)


@takes(CodesConvolution)
def quant_conv2d_values(conv: CodesConvolution) -> Tensor:
    """The values [N, O, H', W'], channels last: each integer times its channel's ratio."""
    return _convolve(conv, as_values=True)[0]
