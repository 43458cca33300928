"""Putting one module in another's place, under every name that it has, and making one like it."""

from __future__ import annotations

from typing import Any

from torch import nn

_HOOKS = {key for key in vars(nn.Module()) if "hook" in key}
_REGISTRIES = ("_parameters", "_buffers", "_modules")


def options_of(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments that make a convolution like another, but its numbers of channels."""
    names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None}


def replace_(module: nn.Module, new: nn.Module) -> None:
    """Turn ``module`` into ``new``, in place.

    The object itself changes, class and attributes, so that whoever holds it holds the new module:
    a parent that registers it under two names, two parents, a list that no parent registers. Its
    mode and its hooks stay, and so does what ``new`` has no counterpart of.

    Args:
        module: of any class.
        new: not to be used on its own afterwards.
    """
    new.train(module.training)
    for registry in _REGISTRIES:
        for name, value in vars(module)[registry].items():
            vars(new)[registry].setdefault(name, value)
    new._non_persistent_buffers_set |= module._non_persistent_buffers_set
    kept = {k: v for k, v in vars(module).items() if k in _HOOKS or k not in vars(new)}
    vars(module).clear()
    vars(module).update(vars(new) | kept)
    module.__class__ = type(new)
