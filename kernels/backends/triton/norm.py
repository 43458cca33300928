"""Batch normalization of a convolution's sums: statistics, the affine map, and the way back."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import NormFold, NormGradient, takes
from .function import fma
from .launch import launch

# Channels of a program.
CHANNELS = 128


@triton.jit
def _here(channels, CHANNELS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The channels of a program, and which of them there are."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    return c, c < channels


@triton.jit
def _interpolate(start, end, weight):
    """torch's lerp, its multiply-add rounded once."""
    distance = end - start
    by = tl.full(start.shape, weight, tl.float32)
    near, far = fma(by, distance, start), fma(by - 1.0, distance, end)
    return tl.where(tl.abs(by) < 0.5, near, far)


@triton.jit
def _follow(running, c, here, found, momentum) -> None:
    """Move running statistics by what was found, float64."""
    start = tl.load(running + c, mask=here)
    tl.store(running + c, _interpolate(start, found.to(tl.float32), momentum), mask=here)


@triton.jit
def norm_fold_kernel(
    sums,
    count,
    dequant_scale,
    weight,
    bias,
    running_mean,
    running_var,
    momentum,
    mean,
    variance,
    scale,
    shift,
    channels,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Statistics of `count` values, the map and the running statistics; None for what is absent."""
    c, here = _here(channels, CHANNELS)
    values = tl.full((CHANNELS,), count, tl.float64)
    step = tl.load(dequant_scale + c, mask=here)
    wide = step.to(tl.float64)
    center = tl.load(sums + c, mask=here) / values
    spread = tl.load(sums + channels + c, mask=here) / values - center * center
    spread = tl.where(spread < 0.0, 0.0, spread)
    average, square = center * wide, spread * wide * wide
    tl.store(mean + c, average, mask=here)
    tl.store(variance + c, square, mask=here)
    if running_mean is not None:
        _follow(running_mean, c, here, average, momentum)
    if running_var is not None:
        others = tl.where(values > 1.0, values - 1.0, 1.0)
        _follow(running_var, c, here, square * (values / others), momentum)
    deviation = tl.sqrt_rn(square.to(tl.float32) + tl.full((CHANNELS,), EPS, tl.float32))
    gain = tl.full((CHANNELS,), 1.0, tl.float32)
    if weight is not None:
        gain = tl.load(weight + c, mask=here)
    gain = tl.div_rn(gain, deviation)
    offset = average.to(tl.float32) * gain
    tl.store(scale + c, step * gain, mask=here)
    moved = -offset
    if bias is not None:
        moved = tl.load(bias + c, mask=here) - offset
    tl.store(shift + c, moved, mask=here)


@triton.jit
def norm_gradient_map_kernel(
    sums,
    mean,
    variance,
    count,
    dequant_scale,
    weight,
    k,
    grad_weight,
    grad_bias,
    channels,
    EPS: tl.constexpr,
    FIXED: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """k [3, channels] and the gradients of the parameters; FIXED where there is no count."""
    c, here = _here(channels, CHANNELS)
    first = tl.load(sums + c, mask=here)
    second = tl.load(sums + channels + c, mask=here)
    spread = tl.load(variance + c, mask=here) + tl.full((CHANNELS,), EPS, tl.float64)
    inverse = 1.0 / tl.sqrt(spread)
    scale = tl.load(dequant_scale + c, mask=here).to(tl.float64) * inverse
    offset = tl.load(mean + c, mask=here) * inverse
    along = second * scale - first * offset
    gain = inverse
    if weight is not None:
        gain = tl.load(weight + c, mask=here).to(tl.float64) * inverse
    slope, constant = tl.zeros_like(gain), tl.zeros_like(gain)
    if not FIXED:
        values = tl.full((CHANNELS,), count, tl.float64)
        slope = -gain * along / values * scale
        constant = gain * (along * offset - first) / values
    tl.store(k + c, gain.to(tl.float32), mask=here)
    tl.store(k + channels + c, slope.to(tl.float32), mask=here)
    tl.store(k + 2 * channels + c, constant.to(tl.float32), mask=here)
    tl.store(grad_weight + c, along.to(tl.float32), mask=here)
    tl.store(grad_bias + c, first.to(tl.float32), mask=here)


@takes(NormFold)
def norm_fold_(norm: NormFold) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of a batch, then scale and shift; the running statistics follow."""
    channels = len(norm.dequant_scale)
    mean, variance = (norm.sums.new_empty(channels) for _ in range(2))
    scale, shift = (torch.empty_like(norm.dequant_scale) for _ in range(2))
    *operands, eps = norm
    out = (mean, variance, scale, shift)
    programs = triton.cdiv(channels, CHANNELS)
    launch(norm_fold_kernel, programs, *operands, *out, channels, EPS=eps, CHANNELS=CHANNELS)
    return out


@takes(NormGradient)
def norm_gradient_map(norm: NormGradient) -> tuple[Tensor, Tensor, Tensor]:
    """k [3, C], the gradient of the weight and that of the bias."""
    scale = norm.dequant_scale
    k = scale.new_empty((3, len(scale)))
    out = k, torch.empty_like(scale), torch.empty_like(scale)
    constants = {"EPS": norm.eps, "FIXED": norm.count is None, "CHANNELS": CHANNELS}
    *operands, _ = norm._replace(count=norm.count or 0)
    programs = triton.cdiv(len(scale), CHANNELS)
    launch(norm_gradient_map_kernel, programs, *operands, *out, len(scale), **constants)
    return out
