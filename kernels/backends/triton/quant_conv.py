"""Convolution of codes: integer sums of products, by taps in registers or by tiles of a product.

Codes are dequantized to their integers while a tile is loaded; they are never unpacked in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import CodesConvolution, takes
from ...scheme import Scheme
from ...shapes import accumulator_dtype
from .fake_quant_weight import quantize_per_channel
from .geometry import Geometry, corner_of, tap_of
from .launch import launch, row_and_columns
from .quantizer import make_quantizer
from .tiles import DEPTHWISE_TILES, PRODUCT_TILES, Tile
from .tuning import choose, device_name

_AFFINE = tl.constexpr(int(Scheme.AFFINE))


@triton.jit
def _finite_or_zero(zero_point):
    return tl.where(zero_point * 0.0 == 0.0, zero_point, 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["levels"])
def conv_ratio_kernel(ends, scale, ratio, levels, outputs, TILE: tl.constexpr) -> None:
    """ratio [O] = 1 / (S_x * S_w)."""
    _, _, of_input, _, _, _ = make_quantizer(tl.load(ends), tl.load(ends + 1), levels, _AFFINE)
    channel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    here = channel < outputs
    both = of_input * tl.load(scale + channel, mask=here, other=1.0)
    tl.store(ratio + channel, tl.div_rn(tl.full((TILE,), 1.0, tl.float32), both), mask=here)


@triton.jit
def _input_zero_point(ends, levels):
    _, _, _, zero, _, _ = make_quantizer(tl.load(ends), tl.load(ends + 1), levels, _AFFINE)
    return _finite_or_zero(zero)


@triton.jit
def _integers(codes, element, here, zero):
    """The integers of packed codes, 0 where there is no image."""
    two = tl.load(codes + (element >> 1), mask=here, other=0).to(tl.int32)
    code = (two >> ((element & 1).to(tl.int32) * 4)) & 15
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
    codes, ends, w, ratio, out, g, levels, blocks, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
) -> None:
    """out [pixels, C] by integers w [taps, C]; a pruned weight is a zero in a register."""
    zero = _input_zero_point(ends, levels)
    row, channel = row_and_columns(blocks, CHANNELS)
    pixel = row * PIXELS + tl.arange(0, PIXELS)
    here = channel < g.channels
    corner = corner_of(pixel, g)
    total = tl.zeros((PIXELS, CHANNELS), tl.int32)
    tap = 0
    while tap < g.kernel_height * g.kernel_width:
        source, inside = tap_of(pixel, corner, tap, g)
        element = source[:, None] * g.channels + channel[None, :]
        found = _integers(codes, element, inside[:, None] & here[None, :], zero)
        weight = tl.load(w + tap * g.channels + channel, mask=here, other=0).to(tl.int32)
        total += found * weight[None, :]
        tap += 1
    element = pixel[:, None] * g.channels + channel[None, :]
    both = (pixel < g.pixels)[:, None] & here[None, :]
    column = tl.where(here, channel, 0)[None, :]
    _store(out, ratio, total, element, column, both)


@triton.jit(do_not_specialize=["levels"])
def product_kernel(
    codes,
    ends,
    w,  # integers [O, taps, C / groups]
    has_weights,  # [output blocks, taps, depth blocks]: whether a tile of w holds any
    ratio,
    out,
    g,
    levels,
    blocks,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """out [pixels, O]: for each tap a product of tiles, left out where all weights are pruned."""
    zero = _input_zero_point(ends, levels)
    block = tl.program_id(0) % blocks
    per_group, group_channels = g.outputs // g.groups, g.channels // g.groups
    blocks_per_group = blocks // g.groups
    group = block // blocks_per_group
    in_group = block % blocks_per_group * OUTPUTS + tl.arange(0, OUTPUTS)
    output = group * per_group + in_group
    pixel = tl.program_id(0).to(tl.int64) // blocks * PIXELS + tl.arange(0, PIXELS)
    corner = corner_of(pixel, g)
    total = tl.zeros((PIXELS, OUTPUTS), tl.int32)
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
                a = _integers(codes, element, inside[:, None] & there[None, :], zero)
                at = (output[None, :] * taps + tap) * group_channels + c[:, None]
                known = there[:, None] & (in_group < per_group)[None, :]
                b = tl.load(w + at, mask=known, other=0)
                total = tl.dot(a.to(tl.int8), b, total, out_dtype=tl.int32)
            step += 1
        tap += 1
    element = pixel[:, None] * g.outputs + output[None, :]
    both = (pixel < g.pixels)[:, None] & (in_group < per_group)[None, :]
    column = tl.where(in_group < per_group, output, 0)[None, :]
    _store(out, ratio, total, element, column, both)


def _integer_weights(w: Tensor, mask: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Integers [O, taps, C / groups], int8, and the scale [O]."""
    codes, scale, zero = quantize_per_channel(w, mask, levels, int(Scheme.AFFINE))
    whole = torch.where(zero.isfinite(), zero, 0.0).to(torch.int16)[:, None, None]
    integers = (codes.flatten(2).to(torch.int16) + whole).to(torch.int8)
    return integers.transpose(1, 2).contiguous(), scale


def _tiles_with_weights(integers: Tensor, groups: int, tile: Tile) -> Tensor:
    """[groups * output blocks, taps, depth blocks], 1 where a tile has a weight that is not 0."""
    outputs, taps, depth = integers.shape
    by_group = integers.view(groups, outputs // groups, taps, depth)
    padding = [0, -depth % tile.depth, 0, 0, 0, -(outputs // groups) % tile.channels]
    padded = torch.nn.functional.pad(by_group, padding)
    tiles = padded.unflatten(3, (-1, tile.depth)).unflatten(1, (-1, tile.channels))
    return (tiles != 0).any(5).any(2).flatten(0, 1).to(torch.uint8).contiguous()


def _ratio(conv: CodesConvolution, scale: Tensor) -> Tensor:
    """1 / (S_x * S_w), [O]."""
    ratio, tile, outputs = torch.empty_like(scale), 128, len(scale)
    operands = (conv.range, scale, ratio, conv.levels, outputs)
    launch(conv_ratio_kernel, triton.cdiv(outputs, tile), *operands, TILE=tile)
    return ratio


def _depthwise(conv: CodesConvolution, g: Geometry, integers, factors, out, tile: Tile) -> None:
    blocks = triton.cdiv(g.channels, tile.channels)
    weights = integers[:, :, 0].t().contiguous()
    programs = triton.cdiv(g.pixels, tile.pixels) * blocks
    operands = (conv.codes, conv.range, weights, factors, out, g, conv.levels, blocks)
    sizes = {"PIXELS": tile.pixels, "CHANNELS": tile.channels}
    launch(depthwise_kernel, programs, *operands, **sizes, **tile.launch)


def _product(conv: CodesConvolution, g: Geometry, integers, factors, out, tile: Tile) -> None:
    blocks = g.groups * triton.cdiv(g.outputs // g.groups, tile.channels)
    weights = (integers, _tiles_with_weights(integers, g.groups, tile))
    programs = triton.cdiv(g.pixels, tile.pixels) * blocks
    operands = (conv.codes, conv.range, *weights, factors, out, g, conv.levels, blocks)
    sizes = {"PIXELS": tile.pixels, "OUTPUTS": tile.channels, "DEPTH": tile.depth}
    launch(product_kernel, programs, *operands, **sizes, **tile.launch)


def _convolve(conv: CodesConvolution, as_values: bool) -> tuple[Tensor, Tensor]:
    g = Geometry.of(conv)
    integers, scale = _integer_weights(conv.w, conv.mask, conv.weight_levels)
    ratio = _ratio(conv, scale)
    sums = accumulator_dtype(conv.shape, conv.levels, conv.weight_levels)
    dtype = torch.float32 if as_values else sums
    out = conv.codes.new_empty((g.pixels, g.outputs), dtype=dtype)
    is_depthwise = g.groups == g.channels == g.outputs
    run = _depthwise if is_depthwise else _product
    operands = (conv, g, integers, ratio if as_values else None, out)
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
