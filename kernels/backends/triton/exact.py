"""The float parts of evaluation: fused multiply-adds in the stated order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import Scheme
from ...shapes import ConvShape
from .fake_quant_weight import quantize_per_channel
from .function import fma
from .lanes import LANES, sum_lanes
from .launch import launch

# A tile: pixels or one row, and outputs.
PIXELS, OUTPUTS = 32, 16


@triton.jit
def float_conv_kernel(
    x,  # [N, H, W, C]
    w,  # [O, C / groups, taps]
    bias,  # [O], or nothing
    out,  # [pixels, O]
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
    HAS_BIAS: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> None:
    """Each output by fma over its input channels, then taps by row, from 0 on."""
    per_group, group_channels = outputs // groups, channels // groups
    pixel = tl.program_id(0).to(tl.int64) // blocks * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(0) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    here = output < outputs
    first = (output // per_group * group_channels)[None, :]
    column, row = pixel % out_width, pixel // out_width % out_height
    image = pixel // (out_width * out_height)
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    taps = kernel_height * kernel_width
    k = 0
    while k < group_channels * taps:
        c, tap = k // taps, k % taps
        yy = row * stride_y - top + tap // kernel_width * dilation_y
        xx = column * stride_x - left + tap % kernel_width * dilation_x
        inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width) & (pixel < pixels)
        element = ((image * height + yy) * width + xx)[:, None] * channels + first + c
        read = tl.load(x + element, mask=inside[:, None] & here[None, :], other=0.0)
        factor = tl.load(w + output * group_channels * taps + k, mask=here, other=0.0)
        total = fma(read, factor[None, :] + tl.zeros_like(total), total)
        k += 1
    if HAS_BIAS:
        total = total + tl.load(bias + output, mask=here, other=0.0)[None, :]
    element = pixel[:, None] * outputs + output[None, :]
    tl.store(out + element, total, mask=(pixel < pixels)[:, None] & here[None, :])


@triton.jit
def linear_kernel(
    x,  # [N, K]
    w,  # [O, K]
    ratio,
    bias,
    y,  # [N, O]
    depth,
    outputs,
    blocks,
    LANES: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> None:
    """Sums by lanes, then fma(sum, ratio, bias); a program makes some outputs of a row."""
    row = tl.program_id(0).to(tl.int64) // blocks
    output = tl.program_id(0) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    here = output < outputs
    lane = tl.arange(0, LANES)[:, None]
    lanes = tl.zeros((LANES, OUTPUTS), tl.float32)
    first = 0
    while first < depth:
        k = first + lane
        read = tl.load(x + row * depth + k, mask=k < depth, other=0.0)
        known = (k < depth) & here[None, :]
        factor = tl.load(w + output[None, :] * depth + k, mask=known, other=0.0)
        lanes = fma(read + tl.zeros_like(lanes), factor, lanes)
        first += LANES
    total = sum_lanes(lanes, OUTPUTS)
    wide = tl.load(ratio + output, mask=here, other=0.0)
    offset = tl.load(bias + output, mask=here, other=0.0)
    tl.store(y + row * outputs + output, fma(total, wide, offset), mask=here)


def conv2d_deterministic(
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """A convolution, channels last; each output by fma over input channels, then taps by row."""
    shape = ConvShape.of(x.shape, w.shape, stride, padding, dilation, groups)
    images, outputs, out_height, out_width = shape.output_size
    out = x.new_empty((images, out_height, out_width, outputs))
    pixels, blocks = images * out_height * out_width, triton.cdiv(outputs, OUTPUTS)
    launch(
        float_conv_kernel,
        triton.cdiv(pixels, PIXELS) * blocks,
        x,
        w,
        bias,
        out,
        pixels,
        *x.shape[2:],
        x.shape[1],
        out_height,
        out_width,
        *w.shape[2:],
        *stride,
        *padding[:2],
        *dilation,
        groups,
        outputs,
        blocks,
        HAS_BIAS=bias.numel() > 0,
        PIXELS=PIXELS,
        OUTPUTS=OUTPUTS,
    )
    return out.permute(0, 3, 1, 2)


def linear_deterministic(x: Tensor, w: Tensor, mask: Tensor, levels: int, bias: Tensor) -> Tensor:
    """x [N, K] times w [O, K]: sums by lanes of fmas, then fma(sum, ratio, bias).

    With levels the weights are the integers of their codes, and the ratio is 1 / scale; without
    (0), the weights are themselves, and it is 1.
    """
    if levels:
        codes, scale, zero = quantize_per_channel(w, mask, levels, int(Scheme.AFFINE))
        w = codes.float() + torch.where(zero.isfinite(), zero, 0.0)[:, None]
        ratio = torch.ones_like(scale) / scale
    else:
        w, ratio = w.contiguous(), w.new_ones(w.shape[0])
    y = x.new_empty((x.shape[0], w.shape[0]))
    blocks = triton.cdiv(w.shape[0], OUTPUTS)
    launch(
        linear_kernel,
        x.shape[0] * blocks,
        x,
        w,
        ratio,
        bias if bias.numel() else torch.zeros_like(ratio),
        y,
        x.shape[1],
        w.shape[0],
        blocks,
        LANES=LANES,
        OUTPUTS=OUTPUTS,
    )
    return y
