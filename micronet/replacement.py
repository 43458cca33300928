"""Putting one module in another's place, under every name that it has."""

from __future__ import annotations

from torch import nn

_HOOKS = tuple(key for key in vars(nn.Module()) if "hook" in key)


def replace_(module: nn.Module, new: nn.Module) -> None:
    """Turn ``module`` into ``new``, in place; its hooks and its mode of training stay.

    The object itself changes, class and attributes, so that whoever holds it holds the new module:
    a parent that registers it under two names, two parents, a list that no parent registers.
    ``new`` must not be used on its own afterwards.
    """
    hooks = {key: value for key, value in vars(module).items() if key in _HOOKS}
    new.train(module.training)
    vars(module).clear()
    vars(module).update(vars(new))
    vars(module).update(hooks)
    module.__class__ = type(new)
