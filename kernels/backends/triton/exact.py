"""The float parts of evaluation: fused multiply-adds in the stated order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import FloatConvolution, takes
from ...scheme import Scheme
from .fake_quant_weight import quantize_per_channel
from .function import fma
from .geometry import Geometry, corner_of, tap_of
from .lanes import LANES, sum_lanes
from .launch import given, launch, row_and_columns

# A tile: pixels or one row, and outputs.
PIXELS, OUTPUTS = 32, 16


@triton.jit
def float_conv_kernel(
    x,  # [N, H, W, C]
    w,  # [O, C / groups, taps]
    bias,  # [O], or None
    out,  # [pixels, O]
    g,
    blocks,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> None:
    """Each output by fma over its input channels, then taps by row, from 0 on."""
    row, output = row_and_columns(blocks, OUTPUTS)
    pixel = row * PIXELS + tl.arange(0, PIXELS)
    here = output < g.outputs
    group_channels = g.channels // g.groups
    first = (output // (g.outputs // g.groups) * group_channels)[None, :]
    corner = corner_of(pixel, g)
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    taps = g.kernel_height * g.kernel_width
    k = 0
    while k < group_channels * taps:
        source, inside = tap_of(pixel, corner, k % taps, g)
        element = source[:, None] * g.channels + first + k // taps
        read = tl.load(x + element, mask=inside[:, None] & here[None, :], other=0.0)
        factor = tl.load(w + output * group_channels * taps + k, mask=here, other=0.0)
        total = fma(read, factor[None, :] + tl.zeros_like(total), total)
        k += 1
    if bias is not None:
        total = total + tl.load(bias + output, mask=here, other=0.0)[None, :]
    element = pixel[:, None] * g.outputs + output[None, :]
    tl.store(out + element, total, mask=(pixel < g.pixels)[:, None] & here[None, :])


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
    row, output = row_and_columns(blocks, OUTPUTS)
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


@takes(FloatConvolution)
def conv2d_deterministic(conv: FloatConvolution) -> Tensor:
    """A convolution, channels last; each output by fma over input channels, then taps by row."""
    g = Geometry.of(conv)
    out, blocks = conv.x.new_empty((g.pixels, g.outputs)), triton.cdiv(g.outputs, OUTPUTS)
    operands = (conv.x, conv.w, given(conv.bias), out, g, blocks)
    programs = triton.cdiv(g.pixels, PIXELS) * blocks
    launch(float_conv_kernel, programs, *operands, PIXELS=PIXELS, OUTPUTS=OUTPUTS)
    return g.images(out)


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
