"""Batch normalization of a convolution's sums: statistics, the affine map, and the way back.

An operator does what lies between two passes over the images. What it is not for, processes that
add up their sums and statistics that stay, is computed by its specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..backends.reference import norm as specification
from ..shapes import in_order
from .gradient import LazyGradient, Plan

_OP = torch.ops.micronet


class Norm(NamedTuple):
    """The arguments of a normalization besides the images; tensors are float32 [C]."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float
    eps: float


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


# What normalizes, then scale and shift [C] of the normalized value fma(acc, scale, shift).
Folded = tuple[Statistics, Tensor, Tensor]


@torch.no_grad()
def of_batch(
    norm: Norm,
    acc: Tensor,
    dequant_scale: Tensor,
    shift: Tensor | None,
    group: dist.ProcessGroup | None,
) -> Folded:
    """Normalize the values acc * dequant_scale + shift by their own statistics.

    The running ones follow. With a group the statistics are of the values of all its processes,
    which all have to call this. The sums are exact where acc is 16-bit integers. A shift, the bias
    of a convolution, changes the mean alone, and so nothing but the running one.
    """
    if shift is None or norm.running_mean is None:
        return _of_batch(norm, acc, dequant_scale, group)
    mean = norm.running_mean - shift
    found = _of_batch(norm._replace(running_mean=mean), acc, dequant_scale, group)
    norm.running_mean.copy_(mean + shift)
    return found


def _of_batch(
    norm: Norm, acc: Tensor, dequant_scale: Tensor, group: dist.ProcessGroup | None
) -> Folded:
    sums = _OP.channel_moments.default(acc)
    count = acc.numel() // acc.shape[1]
    if group is not None or not _lie_in_order(*norm[:4]):
        return _step_by_step(norm, sums, count, dequant_scale, group)
    mean, variance, scale, shift = _OP.norm_fold_.default(sums, count, dequant_scale, *norm)
    return Statistics(mean, variance, count), scale, shift


@torch.no_grad()
def of_running(norm: Norm, dequant_scale: Tensor, shift: Tensor | None) -> Folded:
    """Normalize acc * dequant_scale + shift by the running statistics, which have to be there."""
    center, spread = norm.running_mean, norm.running_var
    assert center is not None and spread is not None
    if shift is not None:
        center = center - shift
    # Values: copies, whatever the buffers hold later.
    mean, variance = (t.detach().to(torch.float64, copy=True) for t in (center, spread))
    return _folded(norm, Statistics(mean, variance), dequant_scale)


def _step_by_step(
    norm: Norm, sums: Tensor, count: int, dequant_scale: Tensor, group: dist.ProcessGroup | None
) -> Folded:
    number, scale = sums.new_full((1,), count), dequant_scale
    if group is not None:
        # Values: the scale of another process may be another.
        wide = scale.double()
        parts = torch.cat([sums[0] * wide, sums[1] * wide * wide, number])
        dist.all_reduce(parts, group=group)
        sums, number, scale = parts[:-1].view_as(sums), parts[-1:], torch.ones_like(scale)
    mean, variance = specification.statistics(sums, number, scale)
    running = norm.running_mean, norm.running_var
    specification.follow_(*running, mean, variance, number, norm.momentum)
    whole_count = count if group is None else number
    return _folded(norm, Statistics(mean, variance, whole_count, group), dequant_scale)


def _folded(norm: Norm, statistics: Statistics, dequant_scale: Tensor) -> Folded:
    found = specification.fold(
        *statistics.to_save(), dequant_scale, norm.weight, norm.bias, norm.eps
    )
    return statistics, *found


def _lie_in_order(*of_channels: Tensor | None) -> bool:
    return all(t is None or t.is_contiguous() for t in of_channels)


# The gradients to the values of sums, and to the weight and bias of their normalization.
Gradients = tuple[Tensor, Tensor | None, Tensor]


def backward(
    plan: Plan,
    statistics: Statistics,
    eps: float,
    weight: Tensor | None,
    dequant_scale: Tensor,
    waits: bool,
) -> Gradients:
    """The gradients of a normalization, from the plan of the one to what it returned.

    Where the convolution before rounds the gradient in the pass that makes it, this one waits for
    it; where it does not, numbers take less memory than what they are made from.
    """
    block, normalization = plan.block, (statistics, eps, weight, dequant_scale)
    if waits or block.scale.device.type != "cpu":
        sums = _OP.block_gradient_sums.default(*plan.arguments())
        k, grad_weight, grad_bias = backward_map(*normalization, sums)
        plan = plan.before_norm(k)
        return LazyGradient.of(plan) if waits else plan.values(), grad_weight, grad_bias
    # A CPU takes longer to evaluate the slope of a function twice than to write dz, once, where the
    # numbers are to be.
    sums, dz = _OP.block_gradient_kept.default(*plan.arguments())
    k, grad_weight, grad_bias = backward_map(*normalization, sums)
    _OP.norm_gradient_.default(dz, block.sums, k)
    return in_order(dz, block.channels_last), grad_weight, grad_bias


def backward_map(
    statistics: Statistics, eps: float, weight: Tensor | None, dequant_scale: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(k, gradients of weight and bias): the gradient to y is dz * k[0] + acc * k[1] + k[2].

    `sums` [2, C] are those of the gradient dz to the normalized values and of dz * acc, float64.
    """
    mean, variance = (t.contiguous() for t in statistics.to_save())
    weight = None if weight is None else weight.contiguous()
    count, group = statistics.count, statistics.group
    if isinstance(count, Tensor):
        k, grad_weight, grad_bias = specification.gradient_map(
            sums, mean, variance, count, dequant_scale, weight, eps, partial(_added, group)
        )
    else:
        k, grad_weight, grad_bias = _OP.norm_gradient_map.default(
            sums, mean, variance, count, dequant_scale, weight, eps
        )
    return k, None if weight is None else grad_weight, grad_bias


def _added(group: dist.ProcessGroup | None, sums: Tensor) -> Tensor:
    dist.all_reduce(sums, group=group)
    return sums
