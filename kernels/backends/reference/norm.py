"""Batch normalization of a convolution's sums: statistics, the affine map, and the way back.

Statistics are float64 and the map is float32. `count` is a float64 tensor [1], so that divisions
are divisions on every device. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...operands import NormFold, NormGradient, takes
from .exact import fma


@takes(NormFold)
def norm_fold_(norm: NormFold) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of a batch, then scale and shift; the running statistics follow."""
    number = norm.sums.new_full((1,), norm.count)
    mean, variance = statistics(norm.sums, number, norm.dequant_scale)
    follow_(norm.running_mean, norm.running_var, mean, variance, number, norm.momentum)
    found = fold(mean, variance, norm.dequant_scale, norm.weight, norm.bias, norm.eps)
    return mean, variance, *found


@takes(NormGradient)
def norm_gradient_map(norm: NormGradient) -> tuple[Tensor, Tensor, Tensor]:
    """k [3, C], the gradient of the weight and that of the bias."""
    number = None if norm.count is None else norm.sums.new_full((1,), norm.count)
    return gradient_map(*norm[:3], number, *norm[4:])


# Their steps ------------------------------------------------------------------------------------


def statistics(sums: Tensor, count: Tensor, dequant_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of acc * dequant_scale, from the sums [2, C] of acc and acc^2."""
    scale = dequant_scale.double()
    mean, square = sums / count
    variance = square - mean * mean
    variance = torch.where(variance < 0, 0.0, variance)
    return mean * scale, variance * scale * scale


def follow_(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    momentum: float,
) -> None:
    """Move the running statistics, the variance unbiased, as torch's own normalization does."""
    if running_mean is not None:
        running_mean.copy_(_interpolate(running_mean, mean.float(), momentum))
    if running_var is not None:
        unbiased = variance * (count / (count - 1).clamp(min=1))
        running_var.copy_(_interpolate(running_var, unbiased.float(), momentum))


def _interpolate(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """torch's lerp, with the one rounding of a fused multiply-add on every machine."""
    by = torch.full_like(start, weight)
    distance = end - start
    near, far = fma(by, distance, start), fma(by - 1, distance, end)
    return torch.where(by.abs() < 0.5, near, far)


def fold(
    mean: Tensor,
    variance: Tensor,
    dequant_scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of the normalized value fma(acc, scale, shift), each rounded once."""
    # In float64 and rounded: torch's own float32 root is an ulp off for some numbers on some CPUs.
    deviation = (variance.float() + eps).double().sqrt().float()
    gain = (torch.ones_like(deviation) if weight is None else weight) / deviation
    offset = mean.float() * gain
    return dequant_scale * gain, -offset if bias is None else bias - offset


def gradient_map(
    sums: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor | None,
    dequant_scale: Tensor,
    weight: Tensor | None,
    eps: float,
    of_all: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> tuple[Tensor, Tensor, Tensor]:
    """(k, gradient of the weight, of the bias): the gradient to y is dz * k[0] + acc * k[1] + k[2].

    With y = dequant_scale * acc, n = (y - mean) / deviation and z = weight * n + bias, the
    derivative of the normalization is affine in dz and acc for each channel. `sums` [2, C] are
    those of dz and of dz * acc; without a count the statistics do not depend on y. `of_all` adds
    what the processes of a group have, [2, C]; the gradients of parameters stay apart.
    """
    first, second = sums
    inverse = _inverse_root(variance + eps)
    scale = dequant_scale.double() * inverse
    offset = mean * inverse
    along = second * scale - first * offset  # sum of dz * n
    gain = inverse if weight is None else weight.double() * inverse
    if count is None:
        rows = [gain, torch.zeros_like(gain), torch.zeros_like(gain)]
    else:
        whole_along, whole_first = of_all(torch.stack([along, first]))
        slope = -gain * whole_along / count * scale
        rows = [gain, slope, gain * (whole_along * offset - whole_first) / count]
    return torch.stack(rows).float(), along.float(), first.float()


def _inverse_root(x: Tensor) -> Tensor:
    """1 / sqrt(x) of float64 numbers, rounded twice."""
    # torch's rsqrt is this on the CPU, where its root may be an ulp off; elsewhere its root is
    # right, and rsqrt may be off.
    return x.rsqrt() if x.device.type == "cpu" else 1.0 / x.sqrt()
