"""Batch normalization of a convolution's sums: statistics, the affine map, and the way back.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_OP = torch.ops.micronet


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of a channel [C] that normalize it, float64; of the batch, or frozen.

    Those of a batch are of `count` values, one or more; it may be spread over the processes of a
    group, whose backward passes then meet too, and where the count is a tensor [1].
    """

    mean: Tensor
    variance: Tensor
    count: Tensor | int | None = None
    group: dist.ProcessGroup | None = None

    def to_save(self) -> tuple[Tensor, Tensor]:
        """The tensors to keep for the backward pass."""
        return self.mean, self.variance

    def restored(self, mean: Tensor, variance: Tensor) -> Statistics:
        """The statistics with what was saved of them."""
        return Statistics(mean, variance, self.count, self.group)


def moments(acc: Tensor, dequant_scale: Tensor, group: dist.ProcessGroup | None) -> Statistics:
    """The statistics of the values acc * dequant_scale, exactly where acc is 16-bit integers.

    With a group they are of the values of all its processes, which all have to call this.
    """
    first, second = _OP.channel_moments.default(acc)
    values = acc.numel() // acc.shape[1]
    count: Tensor | int = values
    scale = dequant_scale.double()
    if group is not None:
        # Values: the scale of another process may be another.
        mine = torch.full_like(first[:1], values)
        sums = torch.cat([first * scale, second * scale * scale, mine])
        dist.all_reduce(sums, group=group)
        first, second, count = sums.split([len(scale), len(scale), 1])
        scale = torch.ones_like(scale)
    mean = first / count
    variance = (second / count - mean * mean).clamp(min=0.0)
    return Statistics(mean * scale, variance * scale * scale, count, group)


@torch.no_grad()
def follow(
    statistics: Statistics,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> None:
    """Move the running statistics, the variance unbiased, as torch's own normalization does."""
    count = statistics.count
    assert count is not None
    if running_mean is not None:
        running_mean.lerp_(statistics.mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = statistics.variance * (count / _at_least_one(count - 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _at_least_one(count: Tensor | int) -> Tensor | int:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


@torch.no_grad()
def fold(
    statistics: Statistics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    dequant_scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of the normalized value fma(acc, scale, shift), each rounded once."""
    mean, variance = statistics.mean.float(), statistics.variance.float()
    gain = torch.ones_like(variance) if weight is None else weight.detach()
    gain = gain / torch.sqrt(variance + eps)
    offset = mean * gain
    return dequant_scale * gain, -offset if bias is None else bias.detach() - offset


def backward_map(
    statistics: Statistics,
    eps: float,
    weight: Tensor | None,
    dequant_scale: Tensor,
    first: Tensor,
    second: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """(k, gradient of the weight): the gradient to y is dz * k[0] + acc * k[1] + k[2].

    With y = dequant_scale * acc, n = (y - mean) / deviation and z = weight * n + bias, the
    derivative of the normalization is affine in dz and acc for each channel. `first` and `second`
    are the sums of dz and of dz * acc, float64 [C].
    """
    inverse = (statistics.variance + eps).rsqrt()
    scale = dequant_scale.double() * inverse
    offset = statistics.mean * inverse
    along = second * scale - first * offset  # sum of dz * n
    gain = inverse if weight is None else weight.double() * inverse
    if statistics.count is None:
        rows = [gain, torch.zeros_like(gain), torch.zeros_like(gain)]
    else:
        # Over the processes of a group; the gradients of parameters stay apart.
        whole_along, whole_first = _of_all(along, first, statistics.group)
        slope = -gain * whole_along / statistics.count * scale
        rows = [gain, slope, gain * (whole_along * offset - whole_first) / statistics.count]
    return torch.stack(rows).float(), None if weight is None else along.to(weight.dtype)


def _of_all(along: Tensor, first: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    if group is None:
        return along, first
    sums = torch.stack([along, first])
    dist.all_reduce(sums, group=group)
    return sums[0], sums[1]
