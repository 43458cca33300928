"""The functions of torch that a deferred tensor takes without being computed.

A handler returns None where it has to be computed after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..scheme import Function
from .activation import MeansNode, Statistics, moments
from .deferred import HANDLERS, Deferred, Norm, activate, activation_of

# Set by `normalise_across`.
_group: dist.ProcessGroup | None = None


@contextmanager
def normalise_across(group: dist.ProcessGroup) -> Iterator[None]:
    """Lets batch normalisations inside the block take the statistics of a group's whole batch.

    All processes of the group have to normalise the same layers in the same order. Source: as
    torch.nn.SyncBatchNorm, also on the CPU.
    """
    global _group
    before, _group = _group, group
    try:
        yield
    finally:
        _group = before


def _batch_norm(
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Deferred | None:
    state = x.state if isinstance(x, Deferred) else None
    if state is None or state.norm or state.activation or state.bias is not None:
        return None
    if training:
        statistics = moments(state.acc, state.ratio, _group)
        _follow(statistics, running_mean, running_var, momentum)
    elif running_mean is None or running_var is None:
        return None
    else:
        statistics = Statistics(running_mean.double(), running_var.double())
    return Deferred.of(replace(state, norm=Norm(statistics, weight, bias, eps)))


@torch.no_grad()
def _follow(
    statistics: Statistics,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> None:
    """Moves the running statistics, the variance unbiased, as torch's own normalisation does."""
    count = statistics.count
    assert count is not None
    if running_mean is not None:
        running_mean.lerp_(statistics.mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = statistics.variance * (count / (count - 1).clamp(min=1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _relu(x: Any, inplace: bool = False) -> Deferred | None:
    return _function(x, Function.RELU)


def _silu(x: Any, inplace: bool = False) -> Deferred | None:
    return _function(x, Function.SWISH)


def _sigmoid(x: Any) -> Deferred | None:
    return _function(x, Function.SIGMOID)


def _function(x: Any, function: Function) -> Deferred | None:
    if not isinstance(x, Deferred) or x.state.activation is not None:
        return None
    return Deferred.of(activate(x.state, function))


def _average(x: Any, output_size: Any) -> Tensor | None:
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    if any(size != 1 for size in sizes) or not isinstance(x, Deferred):
        return None
    state = x.active()
    if state.gate is not None:
        return None
    activation = activation_of(state)
    activation.readers += 1
    return MeansNode.apply(state.carrier, state.acc, activation)[:, :, None, None]


def _mean(
    x: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor | None:
    axes = sorted(axis % 4 for axis in dim) if isinstance(dim, (tuple, list)) else []
    if axes != [2, 3] or dtype is not None:
        return None
    means = _average(x, 1)
    return means if keepdim or means is None else means.flatten(1)


def _multiply(x: Any, other: Any) -> Deferred | None:
    """A product with a gate, one factor for each image and channel."""
    if isinstance(other, Deferred) and not _is_gate(other, x):
        x, other = other, x
    if not isinstance(x, Deferred) or not _is_gate(other, x):
        return None
    state = x.active()
    if state.gate is not None:
        return None
    gate = other.values() if isinstance(other, Deferred) else other
    return Deferred.of(replace(state, gate=gate.flatten(1).float().contiguous()))


def _is_gate(gate: Any, x: Any) -> bool:
    if not isinstance(gate, Tensor) or not isinstance(x, Tensor):
        return False
    return gate.shape == (*x.shape[:2], 1, 1) and gate.is_floating_point()


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: lambda x, weight, bias, mean, var, training, momentum, eps, _: _batch_norm(
        x, mean, var, weight, bias, training, momentum, eps
    ),
    F.adaptive_avg_pool2d: _average,
    torch.mean: _mean,
    Tensor.mean: _mean,
    F.silu: _silu,
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), _sigmoid),
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _multiply),
}
HANDLERS.update(_FUNCTIONS)
