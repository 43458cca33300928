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
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..scheme import Function
from .activation import (
    Activation,
    ActivationNode,
    CodesNode,
    Statistics,
    ValuesNode,
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
class Norm:
    """A batch normalisation that was called on the values."""

    statistics: Statistics
    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True)
class State:
    """What was called so far; `carrier` is the values' before, the activation's after."""

    carrier: Tensor
    acc: Tensor
    ratio: Tensor
    bias: Tensor | None
    recompute: Callable[[], Tensor] | None = None
    norm: Norm | None = None
    activation: Activation | None = None
    gate: Tensor | None = None


class Deferred(Tensor):
    """Images [N, C, H, W] that wait for their reader; made by `Deferred.convolve`.

    As any tensor where it is read as one. Its memory holds NaN: code that goes around torch's
    functions, as a custom autograd function does, is to be noticed.
    """

    state: State

    @staticmethod
    def of(state: State) -> Deferred:
        deferred = state.carrier.as_subclass(Deferred)
        deferred.state = state
        return deferred

    @staticmethod
    def convolve(
        x: QuantisedInput, w: Tensor, mask: Tensor, bias: Tensor | None, call: ConvCall
    ) -> Deferred:
        """A convolution of codes, as `quant_conv2d`, plus bias [O]."""
        state = State(*quant_conv2d_integers(x, w, mask, call), bias)
        if _recomputes and torch.is_grad_enabled():
            state = replace(state, recompute=lambda: integers(x, w.detach(), mask, call))
        return Deferred.of(state)

    @staticmethod
    def of_values(y: Tensor) -> Deferred:
        """Images y, such as a float convolution's, whose successors are to wait, in float32."""
        y = y.float().contiguous(memory_format=torch.channels_last)
        return Deferred.of(State(y, y.detach(), torch.ones(y.shape[1], device=y.device), None))

    @staticmethod
    def fresh(x: Tensor) -> Deferred:
        """x itself while nothing was called on its integers, else its values, which wait again."""
        if isinstance(x, Deferred):
            state = x.state
            if state.norm is None and state.activation is None and state.bias is None:
                return x
            x = x.values()
        return Deferred.of_values(x)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        handler = HANDLERS.get(func)
        result = None if handler is None else handler(*args, **kwargs)
        if result is not None:
            return result
        args, kwargs = tree_map_only(Deferred, Deferred.values, (args, kwargs))
        return func(*args, **kwargs)

    def values(self) -> Tensor:
        """The values, float32 [N, C, H, W], channels last."""
        state = self.active()
        activation = activation_of(state)
        activation.readers += 1
        return ValuesNode.apply(state.carrier, state.gate, state.acc, activation)

    def extremes(self) -> Tensor:
        """The least and the largest value [2], without a gradient."""
        state = self.active()
        activation = activation_of(state)
        gate = activation.none() if state.gate is None else state.gate.detach()
        return torch.ops.micronet.block_extremes.default(*activation.affine(state.acc), gate)

    def quantise(self, range: Tensor, levels: int) -> QuantisedInput:
        """The codes of the values under range [2]."""
        state = self.active()
        activation = activation_of(state)
        # The range moves on with the next batch, these codes do not.
        range = range.clone()
        activation.readers += 1
        if activation.readers == 1 and state.gate is None:
            activation.range = range
        carrier, codes = CodesNode.apply(
            state.carrier, state.gate, state.acc, activation, range, levels
        )
        return QuantisedInput(carrier, codes, range)

    def active(self) -> State:
        """The state with an activation, which is the identity if nothing else was called."""
        if self.state.activation is None:
            self.state = activate(self.state, Function.IDENTITY)
        return self.state


def activation_of(state: State) -> Activation:
    assert state.activation is not None
    return state.activation


def activate(state: State, function: Function) -> State:
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
def _fold(norm: Norm, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """m and b of the normalised value fma(acc, m, b), each operation rounded once."""
    mean, variance = norm.statistics.mean.float(), norm.statistics.variance.float()
    gain = torch.ones_like(variance) if norm.weight is None else norm.weight.detach()
    gain = gain / torch.sqrt(variance + norm.eps)
    offset = mean * gain
    return ratio * gain, -offset if norm.bias is None else norm.bias.detach() - offset


# Functions that stay deferred, see functions.py; a handler returns None where it cannot.
HANDLERS: dict[Any, Callable[..., Any]] = {}

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
