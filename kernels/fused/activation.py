"""Normalisation and activation of a convolution's integers as a node of autograd.

The node stands for a = function(fma(acc, m, b)). Nothing of its size is kept but the integers.
Those who read it say in `Activation` what they will do in the backward pass, so that it can be
done there in the same pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .convolution import ghost

_OP = torch.ops.micronet


@dataclass
class Statistics:
    """Mean and variance of a channel [C] that normalise it, float64; of the batch, or frozen.

    Those of a batch are of `count` values, one or more; it may be spread over the processes of a
    group, whose backward passes then meet too.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor | None = None
    group: dist.ProcessGroup | None = None


@dataclass
class Activation:
    """One activation: its affine map of the integers, and who reads it."""

    m: Tensor
    b: Tensor
    function: int
    # Makes the integers anew in the backward pass; None keeps them.
    recompute: Callable[[], Tensor] | None = field(default=None, repr=False)
    readers: int = 0
    # Set by the only reader where it rounds to a range: the node applies that gradient itself.
    range: Tensor | None = None
    # Set in the backward pass by a reader of the means: [N, C], added to every position.
    extra: Tensor | None = field(default=None, repr=False)
    _again: Tensor | None = field(default=None, repr=False)

    def none(self) -> Tensor:
        """An empty tensor, which stands for no gate, no range and no extra."""
        return self.m.new_empty(0)

    def affine(self, acc: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """The first arguments of every operator on blocks."""
        return acc, self.m, self.b, self.function

    def to_save(self, acc: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """What a node saves of the activation for its backward pass."""
        return None if self.recompute else acc, self.m, self.b

    def saved(self, acc: Tensor | None, m: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """As `affine`, from what was saved; integers that were not are made once for all nodes."""
        if acc is None:
            if self._again is None:
                assert self.recompute is not None
                self._again = self.recompute()
            acc = self._again
        return acc, m, b, self.function

    def drop(self) -> None:
        """Forgets integers that were made again."""
        self._again = None


def moments(acc: Tensor, ratio: Tensor, group: dist.ProcessGroup | None = None) -> Statistics:
    """The statistics of the values acc * ratio, exactly where acc is an integer of 16 bits.

    With a group they are of the values of all its processes, which all have to call this.
    """
    first, second = _OP.channel_moments.default(acc)
    count, scale = torch.full_like(first[:1], acc.numel() // acc.shape[1]), ratio.double()
    if group is not None:
        # Values: the ratio of another process may be another.
        sums = torch.cat([first * scale, second * scale * scale, count])
        dist.all_reduce(sums, group=group)
        first, second, count = sums.split([len(ratio), len(ratio), 1])
        scale = torch.ones_like(scale)
    mean = first / count
    variance = (second / count - mean * mean).clamp(min=0.0)
    return Statistics(mean * scale, variance * scale * scale, count, group)


class ActivationNode(torch.autograd.Function):
    """From the carrier of a convolution's values to the carrier of the activation's."""

    @staticmethod
    def forward(
        ctx: Any,
        carrier: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        ratio: Tensor,
        statistics: Statistics | None,
        eps: float,
        acc: Tensor,
        activation: Activation,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*activation.to_save(acc), weight, ratio)
        ctx.statistics, ctx.eps, ctx.activation = statistics, eps, activation
        ctx.has_bias = bias is not None
        return ghost(carrier.shape, carrier.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        activation = ctx.activation
        *saved, weight, ratio = ctx.saved_tensors
        extra, activation.extra = activation.extra, None
        if grad is None and extra is None:
            return (None,) * 8
        acc, m, b, function = activation.saved(*saved)
        activation.drop()
        if grad is None:
            grad = torch.zeros(acc.shape, device=acc.device)
        grad = grad.contiguous(memory_format=torch.channels_last)
        none = m.new_empty(0)
        range = activation.range if activation.readers == 1 else None
        rest = (
            acc,
            m,
            b,
            function,
            none if range is None else range,
            none if extra is None else extra.contiguous(),
        )
        first, second = _OP.block_gradient_sums.default(grad, *rest)
        k, grad_weight, grad_bias = _through_norm(ctx, first, second, weight, ratio)
        out = _OP.block_gradient.default(grad, *rest, k)
        return out, grad_weight, grad_bias if ctx.has_bias else None, *(None,) * 5


def _through_norm(
    ctx: Any, first: Tensor, second: Tensor, weight: Tensor | None, ratio: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(k, gradient of the weight, gradient of the bias): dy = dz * k[0] + acc * k[1] + k[2].

    With y = ratio * acc, n = (y - mean) / deviation and z = weight * n + bias, the derivative of
    batch normalisation (Ioffe and Szegedy 2015) is affine in dz and acc for each channel.
    """
    statistics = ctx.statistics
    if statistics is None:
        k = torch.zeros(3, len(ratio), device=ratio.device)
        k[0] = 1.0
        return k, None, first.float()
    inverse = (statistics.variance + ctx.eps).rsqrt()
    scale = ratio.double() * inverse
    offset = statistics.mean * inverse
    along = second * scale - first * offset  # sum of dz * n
    gain = inverse if weight is None else weight.double() * inverse
    k = torch.zeros(3, len(ratio), device=ratio.device, dtype=torch.float64)
    k[0] = gain
    if statistics.count is not None:
        whole_along, whole_first = _of_all(along, first, statistics.group)
        k[1] = -gain * whole_along / statistics.count * scale
        k[2] = gain * (whole_along * offset - whole_first) / statistics.count
    grad_weight = None if weight is None else along.to(weight.dtype)
    return k.float(), grad_weight, first.float()


def _of_all(along: Tensor, first: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Both sums [2, C] over the processes of a group; the gradients of parameters stay apart."""
    sums = torch.stack([along, first])
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums


class ValuesNode(torch.autograd.Function):
    """The values themselves, where something else than a convolution of codes reads them."""

    @staticmethod
    def forward(
        ctx: Any, carrier: Tensor, gate: Tensor | None, acc: Tensor, activation: Activation
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.activation = activation
        # Without a gate the gradient passes as it is.
        ctx.save_for_backward(gate, *(() if gate is None else activation.to_save(acc)))
        none = activation.none()
        return _OP.block_values.default(*activation.affine(acc), none if gate is None else gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        gate, *saved = ctx.saved_tensors
        if grad is None or gate is None:
            return grad, None, None, None
        return *_gate_gradient(grad, ctx, saved, gate, None), None, None


class CodesNode(torch.autograd.Function):
    """The codes of the values, or of values times a gate, under a range."""

    @staticmethod
    def forward(
        ctx: Any,
        carrier: Tensor,
        gate: Tensor | None,
        acc: Tensor,
        activation: Activation,
        range: Tensor,
        levels: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.activation = activation
        ctx.save_for_backward(gate, range, *activation.to_save(acc))
        codes = _OP.block_codes.default(
            *activation.affine(acc), activation.none() if gate is None else gate, range, levels
        )
        ctx.mark_non_differentiable(codes)
        return ghost(carrier.shape, carrier.device), codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        gate, range, *saved = ctx.saved_tensors
        activation = ctx.activation
        if grad is None:
            return (None,) * 6
        if gate is None and activation.readers == 1:
            return grad, *(None,) * 5
        if gate is None:
            ones = torch.ones(grad.shape[:2], device=grad.device)
            return _gate_gradient(grad, ctx, saved, ones, range)[0], *(None,) * 5
        return *_gate_gradient(grad, ctx, saved, gate, range), *(None,) * 4


def _gate_gradient(
    grad: Tensor, ctx: Any, saved: list[Tensor], gate: Tensor, range: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _OP.block_gate_gradient.default(
        grad.contiguous(memory_format=torch.channels_last),
        *ctx.activation.saved(*saved),
        gate,
        gate.new_empty(0) if range is None else range,
    )


class MeansNode(torch.autograd.Function):
    """The means over the positions, [N, C]; their gradient waits in the activation."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, acc: Tensor, activation: Activation) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.activation = activation
        ctx.positions = carrier.shape[2] * carrier.shape[3]
        return _OP.block_means.default(*activation.affine(acc))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, None, None]:
        if grad is not None:
            extra = grad / ctx.positions
            waiting = ctx.activation.extra
            ctx.activation.extra = extra if waiting is None else waiting + extra
        return None, None, None
