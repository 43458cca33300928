"""Functions of evaluation that have one arithmetic, whatever tensor they are called with.

torch's own sum in an order, and round in ways, that depend on the device. Modes of torch's
functions see calls of these as they see torch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .lazy.block import Block
from .lazy.integer_sums import with_gradient_of
from .lazy.nodes import MeansNode
from .lazy.pending import PendingTensor
from .lazy.tensor import LazyTensor, activation, block_of
from .scheme import Function
from .shapes import is_channels_last

_Unary = Callable[[Tensor], Tensor]


def _seen_by_modes(function: _Unary) -> _Unary:
    """Let modes and tensor subclasses take a call, as they take those of torch's functions."""

    @functools.wraps(function)
    def call(x: Tensor) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(call, (x,), x)
        return function(x)

    return call


@_seen_by_modes
def position_means(x: Tensor) -> Tensor:
    """The means of float32 images [N, C, H, W] over their positions, [N, C, 1, 1].

    They are summed by sixteen lanes, as those of a block that nobody has read yet: the same bits on
    every device, which torch's own mean does not promise.
    """
    block = block_of(x)
    if block is not None and block.gate is None:
        return MeansNode.apply(x, block, True)
    values = _ordinary(x)
    if not values.numel():
        return values.mean((2, 3), keepdim=True)
    waiting = LazyTensor.wait(values.detach())
    found = waiting.block()
    assert found is not None
    means = MeansNode.apply(waiting, found, True)
    return _with_gradient(means, values, lambda x: x.mean((2, 3), keepdim=True))


@_seen_by_modes
def swish(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)) of a float32 tensor, by the exp of `csrc/include/function.h`."""
    return _activated(x, Function.SWISH, F.silu)


@_seen_by_modes
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) of a float32 tensor, by the same exp."""
    return _activated(x, Function.SIGMOID, torch.sigmoid)


@_seen_by_modes
def hardswish(x: Tensor) -> Tensor:
    """x * min(max(x + 3, 0), 6) / 6 of a float32 tensor: a sum, a product, a quotient.

    torch's own on the CPU; that of other devices multiplies by a sixth, which rounds otherwise.
    """
    if x.device.type == "cpu":
        return F.hardswish(x)
    values = _ordinary(x)
    return _with_gradient(hardswish_by_steps(values.detach()), values, F.hardswish)


@_seen_by_modes
def hardsigmoid(x: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6 of a float32 tensor; see `hardswish`."""
    if x.device.type == "cpu":
        return F.hardsigmoid(x)
    values = _ordinary(x)
    return _with_gradient(hardsigmoid_by_steps(values.detach()), values, F.hardsigmoid)


def hardswish_by_steps(x: Tensor) -> Tensor:
    """The definition of hardswish, one rounding after the other, on any device."""
    return _sixth(x * (x + 3.0).clamp(0.0, 6.0))


def hardsigmoid_by_steps(x: Tensor) -> Tensor:
    """The definition of hardsigmoid likewise."""
    return _sixth((x + 3.0).clamp(0.0, 6.0))


def _sixth(x: Tensor) -> Tensor:
    # By a tensor of the device: by a number, devices divide through a product with its inverse.
    return x / x.new_full((1,), 6.0)


def _ordinary(x: Tensor) -> Tensor:
    return (x.plain() if isinstance(x, PendingTensor) else x).float()


def _with_gradient(exact: Tensor, x: Tensor, ordinary: _Unary) -> Tensor:
    """exact, with the gradient of torch's own function, if one is wanted."""
    if not torch.is_grad_enabled() or not x.requires_grad:
        return exact
    return with_gradient_of(exact, ordinary(x))


def _activated(x: Tensor, function: Function, ordinary: _Unary) -> Tensor:
    block = block_of(x)
    if block is not None and block.takes_function:
        return activation(x, block, function)
    values = _ordinary(x)
    if not values.numel():
        return ordinary(values)
    return _with_gradient(_of_values(values.detach(), function), values, ordinary)


def _of_values(x: Tensor, function: Function) -> Tensor:
    """The function of each value, in the order in memory that x has."""
    is_last = is_channels_last(x)
    lying = x.permute(0, 2, 3, 1) if is_last else x
    lying = lying.contiguous()
    # One row of features for each image: of a function of each value any cut is right.
    rows = lying.reshape(len(lying) if lying.dim() > 1 else 1, -1)
    ones = torch.ones(rows.shape[1], dtype=torch.float32, device=x.device)
    # The sum with -0 is every value itself; with +0 that of -0 would be +0.
    block = Block(rows[:, :, None, None], ones, -0.0 * ones, False).with_function(function)
    found = block.values().reshape(lying.shape)
    return found.permute(0, 3, 1, 2) if is_last else found
