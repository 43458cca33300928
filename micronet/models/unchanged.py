"""Trying a network out without leaving a trace in it, or in the random numbers to come."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put a network back as it was, to the bit, whatever is done to it inside.

    That is its modules, hooks, modes and attributes, the values and gradients of its parameters
    and buffers, and the random states of torch, numpy and Python.
    """
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    attributes = [(m, type(m), _copied(vars(m))) for m in modules]
    tensors = [(t, t.detach().clone(), t.grad) for t in _tensors(model)]
    try:
        with _random_states_kept():
            yield
    finally:
        for module, kind, before in attributes:
            module.__class__ = kind
            _put_back(vars(module), before)
        with torch.no_grad():
            for tensor, values, gradient in tensors:
                tensor.grad = gradient
                # Elements that share memory cannot be written to, so they are as they were.
                if not overlaps(tensor):
                    tensor.copy_(values)


def _tensors(model: nn.Module) -> list[Tensor]:
    return list({id(t): t for t in itertools.chain(model.parameters(), model.buffers())}.values())


def overlaps(tensor: Tensor) -> bool:
    """Whether elements of a tensor share memory, so that it cannot be written to."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return any(stride == 0 and size > 1 for size, stride in sides)


def _copied(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return each attribute, with a copy of its content where it is a plain container."""
    return {
        name: (value, value.copy() if type(value) in _CONTAINERS else None)
        for name, value in attributes.items()
    }


def _put_back(now: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    now.clear()
    for name, (value, content) in before.items():
        now[name] = value
        # In place: what else holds a module's hooks or children holds the same container.
        if type(value) is list:
            value[:] = content
        elif content is not None:
            value.clear()
            value.update(content)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
