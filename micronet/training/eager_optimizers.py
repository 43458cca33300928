"""Torch's optimizers without the compiler of torch, which is not imported for them."""

from __future__ import annotations

import inspect
from typing import TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)


def eager(kind: type[Kind]) -> type[Kind]:
    """Return a class of optimizer of torch, the same in all but what it imports.

    Torch wraps what its optimizers do, so that ``torch.compile`` goes around it. The wrappers
    import the compiler, and that sympy: more than a second of each training process. A step that is
    trained here is never compiled itself.
    """
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    # What the wrapper of a step does beside: parameters are written without a gradient.
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Kind], type(kind.__name__, (kind,), plain))
