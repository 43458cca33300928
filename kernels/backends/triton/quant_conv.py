"""Convolution of codes: integer sums of products, by taps in registers or by tiles of a product.

Codes are dequantized to their integers while a tile is loaded; they are never unpacked in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import Scheme
from ...shapes import ConvShape, accumulator_dtype
from .fake_quant_weight import quantize_per_channel
from .launch import launch
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
def _store(out, ratio, total, element, channel, here, AS_VALUES: tl.constexpr):
    if AS_VALUES:
        value = total.to(tl.float32) * tl.load(ratio + channel, mask=channel >= 0, other=0.0)
        tl.store(out + element, value, mask=here)
    else:
        tl.store(out + element, total.to(out.dtype.element_ty), mask=here)


@triton.jit
def _corner(pixel, out_height, out_width, stride_y, stride_x, top, left):
    """Image, row and column of the first tap of output pixels."""
    x = pixel % out_width
    y = pixel // out_width % out_height
    return pixel // (out_width * out_height), y * stride_y - top, x * stride_x - left


@triton.jit(do_not_specialize=["levels"])
def depthwise_kernel(
    codes,
    ends,
    w,  # integers [taps, C]
    ratio,
    out,
    levels,
    pixels,
    height,
    width,
    channels,
    out_height,
    out_width,
    kernel_height,
    kernel_width,
    stride_y,
    stride_x,
    top,
    left,
    dilation_y,
    dilation_x,
    blocks,
    AS_VALUES: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """out [pixels, C]; a pruned weight is a zero in a register."""
    zero = _input_zero_point(ends, levels)
    pixel = tl.program_id(0).to(tl.int64) // blocks * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < channels
    image, first_y, first_x = _corner(pixel, out_height, out_width, stride_y, stride_x, top, left)
    total = tl.zeros((PIXELS, CHANNELS), tl.int32)
    tap = 0
    while tap < kernel_height * kernel_width:
        y = first_y + tap // kernel_width * dilation_y
        x = first_x + tap % kernel_width * dilation_x
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (pixel < pixels)
        element = ((image * height + y) * width + x)[:, None] * channels + channel[None, :]
        found = _integers(codes, element, inside[:, None] & here[None, :], zero)
        weight = tl.load(w + tap * channels + channel, mask=here, other=0).to(tl.int32)
        total += found * weight[None, :]
        tap += 1
    element = pixel[:, None] * channels + channel[None, :]
    both = (pixel < pixels)[:, None] & here[None, :]
    column = tl.where(here, channel, 0)[None, :]
    _store(out, ratio, total, element, column, both, AS_VALUES)


@triton.jit(do_not_specialize=["levels"])
def product_kernel(
    codes,
    ends,
    w,  # integers [O, taps, C / groups]
    has_weights,  # [output blocks, taps, depth blocks]: whether a tile of w holds any
    ratio,
    out,
    levels,
    pixels,
    height,
    width,
    channels,
    out_height,
    out_width,
    kernel_height,
    kernel_width,
    stride_y,
    stride_x,
    top,
    left,
    dilation_y,
    dilation_x,
    groups,
    outputs,
    blocks,
    AS_VALUES: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """out [pixels, O]: for each tap a product of tiles, left out where all weights are pruned."""
    zero = _input_zero_point(ends, levels)
    block = tl.program_id(0) % blocks
    per_group, group_channels = outputs // groups, channels // groups
    blocks_per_group = blocks // groups
    group = block // blocks_per_group
    in_group = block % blocks_per_group * OUTPUTS + tl.arange(0, OUTPUTS)
    output = group * per_group + in_group
    pixel = tl.program_id(0).to(tl.int64) // blocks * PIXELS + tl.arange(0, PIXELS)
    image, first_y, first_x = _corner(pixel, out_height, out_width, stride_y, stride_x, top, left)
    total = tl.zeros((PIXELS, OUTPUTS), tl.int32)
    taps, steps = kernel_height * kernel_width, tl.cdiv(group_channels, DEPTH)
    tap = 0
    while tap < taps:
        y = first_y + tap // kernel_width * dilation_y
        x = first_x + tap % kernel_width * dilation_x
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (pixel < pixels)
        base = ((image * height + y) * width + x) * channels + group * group_channels
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
    element = pixel[:, None] * outputs + output[None, :]
    both = (pixel < pixels)[:, None] & (in_group < per_group)[None, :]
    column = tl.where(in_group < per_group, output, 0)[None, :]
    _store(out, ratio, total, element, column, both, AS_VALUES)


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


def _depthwise(codes, range, integers, ratio, out, geometry, groups, as_values, tile: Tile) -> None:
    blocks = triton.cdiv(groups, tile.channels)
    launch(
        depthwise_kernel,
        triton.cdiv(geometry[1], tile.pixels) * blocks,
        codes,
        range,
        integers[:, :, 0].t().contiguous(),
        ratio,
        out,
        *geometry,
        blocks,
        AS_VALUES=as_values,
        PIXELS=tile.pixels,
        CHANNELS=tile.channels,
        **tile.launch,
    )


def _product(codes, range, integers, ratio, out, geometry, groups, as_values, tile: Tile) -> None:
    outputs = len(ratio)
    blocks = groups * triton.cdiv(outputs // groups, tile.channels)
    launch(
        product_kernel,
        triton.cdiv(geometry[1], tile.pixels) * blocks,
        codes,
        range,
        integers,
        _tiles_with_weights(integers, groups, tile),
        ratio,
        out,
        *geometry,
        groups,
        outputs,
        blocks,
        AS_VALUES=as_values,
        PIXELS=tile.pixels,
        OUTPUTS=tile.channels,
        DEPTH=tile.depth,
        **tile.launch,
    )


def _convolve(args: tuple, as_values: bool) -> tuple[Tensor, Tensor]:
    codes, range, levels, w, mask, weight_levels, input_size = args[:7]
    stride, padding, dilation, groups = args[7:]
    shape = ConvShape.of(input_size, w.shape, stride, padding, dilation, groups)
    integers, scale = _integer_weights(w, mask, weight_levels)
    ratio = torch.empty_like(scale)
    tile = 128
    programs = triton.cdiv(len(scale), tile)
    launch(conv_ratio_kernel, programs, range, scale, ratio, levels, len(scale), TILE=tile)
    dtype = torch.float32 if as_values else accumulator_dtype(shape, levels, weight_levels)
    images, outputs, out_height, out_width = shape.output_size
    out = codes.new_empty((images, out_height, out_width, outputs), dtype=dtype)
    channels, height, width = input_size[1:]
    pixels = images * out_height * out_width
    sizes = (levels, pixels, height, width, channels, out_height, out_width, *w.shape[2:])
    geometry = (*sizes, *stride, *padding[:2], *dilation)
    operands = (codes, range, integers, ratio, out, geometry, groups, as_values)
    is_depthwise = groups == channels == outputs
    run = _depthwise if is_depthwise else _product
    tiles = DEPTHWISE_TILES if is_depthwise else PRODUCT_TILES
    key = (*input_size, *w.shape, *stride, *padding, *dilation, groups)
    device = device_name(codes.device)
    name = f"{run.__name__.strip('_')}_{str(dtype).removeprefix('torch.')}"
    run(*operands, choose(name, key, tiles, lambda tile: run(*operands, tile), device))
    return out.permute(0, 3, 1, 2), ratio


def quant_conv2d(*args: object) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'], channels last, and the ratio [O] that makes values of them."""
    return _convolve(args, as_values=False)


def quant_conv2d_values(*args: object) -> Tensor:
    """The values [N, O, H', W'], channels last: each integer times its channel's ratio."""
    return _convolve(args, as_values=True)[0]
