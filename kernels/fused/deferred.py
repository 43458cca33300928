"""A tensor that is computed when it is known who reads it.

A convolution of codes returns integers; what a network does with them next, normalise, activate,
average, gate and round again, is noted and done in one go by the reader. Any other use computes
the values first, so that a network needs no rewriting: it works, only without the saving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..scheme import Function
from .activation import (
    Activation,
    ActivationNode,
    CodesNode,
    MeansNode,
    Statistics,
    ValuesNode,
    moments,
)
from .convolution import ConvCall, QuantisedInput, integers
from .convolution import quant_conv2d as quant_conv2d_integers

_recomputes = False


@contextmanager
def recompute_in_backward(wanted: bool = True) -> Iterator[None]:
    """Lets convolutions called inside the block keep no integers: their backward makes them anew.

    The same integers, so the same gradients, for the time of one more forward convolution.
    """
    global _recomputes
    before, _recomputes = _recomputes, wanted
    try:
        yield
    finally:
        _recomputes = before


@dataclass(frozen=True)
class _Norm:
    """A batch normalisation that was called on the values."""

    statistics: Statistics
    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True)
class _State:
    """What was called so far; `carrier` is the values' before, the activation's after."""

    carrier: Tensor
    acc: Tensor
    ratio: Tensor
    bias: Tensor | None
    recompute: Callable[[], Tensor] | None = None
    norm: _Norm | None = None
    activation: Activation | None = None
    gate: Tensor | None = None


class Deferred(Tensor):
    """Images [N, C, H, W] that wait for their reader; made by `Deferred.convolve`.

    As any tensor where it is read as one. Its memory holds NaN: code that goes around torch's
    functions, as a custom autograd function does, is to be noticed.
    """

    _state: _State

    @staticmethod
    def _of(state: _State) -> Deferred:
        deferred = state.carrier.as_subclass(Deferred)
        deferred._state = state
        return deferred

    @staticmethod
    def convolve(
        x: QuantisedInput, w: Tensor, mask: Tensor, bias: Tensor | None, call: ConvCall
    ) -> Deferred:
        """A convolution of codes, as `quant_conv2d`, plus bias [O]."""
        state = _State(*quant_conv2d_integers(x, w, mask, call), bias)
        if _recomputes and torch.is_grad_enabled():
            state = replace(state, recompute=lambda: integers(x, w.detach(), mask, call))
        return Deferred._of(state)

    @staticmethod
    def of_values(y: Tensor) -> Deferred:
        """Float32 images y, such as a float convolution's, whose successors are to wait."""
        y = y.contiguous(memory_format=torch.channels_last)
        return Deferred._of(_State(y, y.detach(), torch.ones(y.shape[1], device=y.device), None))

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        handler = _HANDLERS.get(func)
        result = None if handler is None else handler(*args, **kwargs)
        if result is not None:
            return result
        args, kwargs = tree_map_only(Deferred, Deferred.values, (args, kwargs))
        return func(*args, **kwargs)

    def values(self) -> Tensor:
        """The values, float32 [N, C, H, W], channels last."""
        state = self._active()
        activation = _activation(state)
        activation.readers += 1
        return ValuesNode.apply(state.carrier, state.gate, state.acc, activation)

    def extremes(self) -> Tensor:
        """The least and the largest value [2], without a gradient."""
        state = self._active()
        activation = _activation(state)
        gate = activation.none() if state.gate is None else state.gate.detach()
        return torch.ops.micronet.block_extremes.default(*activation.affine(state.acc), gate)

    def quantise(self, range: Tensor, levels: int) -> QuantisedInput:
        """The codes of the values under range [2]."""
        state = self._active()
        activation = _activation(state)
        # The range moves on with the next batch, these codes do not.
        range = range.clone()
        activation.readers += 1
        if activation.readers == 1 and state.gate is None:
            activation.range = range
        carrier, codes = CodesNode.apply(
            state.carrier, state.gate, state.acc, activation, range, levels
        )
        return QuantisedInput(carrier, codes, range)

    def _active(self) -> _State:
        """The state with an activation, which is the identity if nothing else was called."""
        if self._state.activation is None:
            self._state = _activate(self._state, Function.IDENTITY)
        return self._state


def _activation(state: _State) -> Activation:
    assert state.activation is not None
    return state.activation


def _activate(state: _State, function: Function) -> _State:
    ratio, norm = state.ratio, state.norm
    if norm is None:
        zero = torch.zeros_like(ratio)
        bias = zero if state.bias is None else state.bias.detach()
        activation = Activation(ratio, bias, function, state.recompute)
        parameters: tuple[Any, ...] = (None, state.bias, ratio, None, 0.0)
    else:
        m, b = _fold(norm, ratio)
        activation = Activation(m, b, function, state.recompute)
        parameters = (norm.weight, norm.bias, ratio, norm.statistics, norm.eps)
    carrier = ActivationNode.apply(state.carrier, *parameters, state.acc, activation)
    return replace(state, carrier=carrier, activation=activation)


@torch.no_grad()
def _fold(norm: _Norm, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """m and b of the normalised value fma(acc, m, b), each operation rounded once."""
    mean, variance = norm.statistics.mean.float(), norm.statistics.variance.float()
    gain = torch.ones_like(variance) if norm.weight is None else norm.weight.detach()
    gain = gain / torch.sqrt(variance + norm.eps)
    offset = mean * gain
    return ratio * gain, -offset if norm.bias is None else norm.bias.detach() - offset


# What stays deferred; a handler returns None where it has to be computed after all ---------------


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
    state = x._state if isinstance(x, Deferred) else None
    if state is None or state.norm or state.activation or state.bias is not None:
        return None
    if training:
        statistics = moments(state.acc, state.ratio)
        _follow(statistics, state.acc, running_mean, running_var, momentum)
    elif running_mean is None or running_var is None:
        return None
    else:
        statistics = Statistics(running_mean.double(), running_var.double(), of_batch=False)
    return Deferred._of(replace(state, norm=_Norm(statistics, weight, bias, eps)))


@torch.no_grad()
def _follow(
    statistics: Statistics,
    acc: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> None:
    """Moves the running statistics, the variance unbiased, as torch's own normalisation does."""
    count = acc.numel() // acc.shape[1]
    if running_mean is not None:
        running_mean.lerp_(statistics.mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = statistics.variance * (count / max(count - 1, 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _relu(x: Any, inplace: bool = False) -> Deferred | None:
    return _function(x, Function.RELU)


def _silu(x: Any, inplace: bool = False) -> Deferred | None:
    return _function(x, Function.SWISH)


def _sigmoid(x: Any) -> Deferred | None:
    return _function(x, Function.SIGMOID)


def _function(x: Any, function: Function) -> Deferred | None:
    if not isinstance(x, Deferred) or x._state.activation is not None:
        return None
    return Deferred._of(_activate(x._state, function))


def _average(x: Any, output_size: Any) -> Tensor | None:
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    if any(size != 1 for size in sizes) or not isinstance(x, Deferred):
        return None
    state = x._active()
    if state.gate is not None:
        return None
    activation = _activation(state)
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
    state = x._active()
    if state.gate is not None:
        return None
    gate = other.values() if isinstance(other, Deferred) else other
    return Deferred._of(replace(state, gate=gate.flatten(1).contiguous()))


def _is_gate(gate: Any, x: Any) -> bool:
    if not isinstance(gate, Tensor) or not isinstance(x, Tensor):
        return False
    return gate.shape == (*x.shape[:2], 1, 1) and gate.dtype == torch.float32


_HANDLERS: dict[Any, Callable[..., Any]] = {
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

# What is asked about a tensor without reading it.
_ABOUT: set[Any] = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape",
            "dtype",
            "device",
            "ndim",
            "requires_grad",
            "grad_fn",
            "is_cuda",
            "is_meta",
        )
    ),
}
