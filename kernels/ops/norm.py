"""Batch normalization of a convolution's sums: what lies between two passes over the images.

z = (y - mean) / sqrt(variance + eps) * weight + bias of the values y = acc * dequant_scale.
Operands are [C] and contiguous, float32; statistics are float64 [C], sums float64 [2, C].
"""

import torch
from torch import Tensor

from ..checks import check, check_order, check_same_device
from ..operands import NormFold, NormGradient, schema_of, takes
from .registry import define, empty

# What the operators refuse ----------------------------------------------------------------------


def _check_channels(sums: Tensor, dtype: torch.dtype, **of_channels: Tensor | None) -> None:
    """Check operands that are one number for each channel, where they are given."""
    for name, x in of_channels.items():
        if x is not None:
            check(name, x, dtype, (sums.shape[1],))
            check_order(name, x)
            check_same_device(name, x, sums)


def _check_sums(sums: Tensor, count: int | None, eps: float) -> None:
    check("sums", sums, torch.float64)
    if sums.dim() != 2 or len(sums) != 2 or sums.numel() == 0:
        raise ValueError(f"sums has shape {list(sums.shape)}, but must have [2, C], C not 0")
    check_order("sums", sums)
    if count is not None and count < 1:
        raise ValueError(f"count is {count}, but must be at least 1")
    if not eps > 0:
        raise ValueError(f"eps is {eps}, but must be above 0")


@takes(NormFold)
def _check_fold(norm: NormFold) -> None:
    _check_sums(norm.sums, norm.count, norm.eps)
    names = ("dequant_scale", "weight", "bias", "running_mean", "running_var")
    of_channels = {name: getattr(norm, name) for name in names}
    _check_channels(norm.sums, torch.float32, **of_channels)


@takes(NormGradient)
def _check_gradient_map(norm: NormGradient) -> None:
    sums = norm.sums
    _check_sums(sums, norm.count, norm.eps)
    _check_channels(sums, torch.float64, mean=norm.mean, variance=norm.variance)
    _check_channels(sums, torch.float32, dequant_scale=norm.dequant_scale, weight=norm.weight)


# The operators ----------------------------------------------------------------------------------


def _channels(sums: Tensor, dtype: torch.dtype) -> Tensor:
    return empty(sums, (sums.shape[1],), dtype)


# From the sums of `count` accumulators and of their squares: mean and variance of the values, then
# scale and shift of z = fma(acc, scale, shift). The running statistics follow, the variance
# unbiased, as torch's own do.
define(
    f"norm_fold_({schema_of(NormFold)}) -> (Tensor, Tensor, Tensor, Tensor)",
    _check_fold,
    lambda sums, *_: (
        *(_channels(sums, torch.float64) for _ in range(2)),
        *(_channels(sums, torch.float32) for _ in range(2)),
    ),
)
# From the sums of the gradient dz to z and of dz * acc: k [3, C], by which the gradient to y is
# dz * k[0] + (acc * k[1] + k[2]), and the gradients of weight and bias. `count` is that of the
# statistics; None where they do not depend on y.
define(
    f"norm_gradient_map({schema_of(NormGradient)}) -> (Tensor, Tensor, Tensor)",
    _check_gradient_map,
    lambda sums, *_: (
        empty(sums, (3, sums.shape[1]), torch.float32),
        *(_channels(sums, torch.float32) for _ in range(2)),
    ),
)
