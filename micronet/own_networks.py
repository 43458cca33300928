"""Networks of a user's own: ``module:function`` where else an architecture's name stands.

Calling the function runs its code, so only a command line may name one. A checkpoint, a plan or a
schedule that does is refused unless the command line allows it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from micronet.errors import UserError

_allowed: set[str] = set()


def is_own(arch: object) -> bool:
    """Whether an architecture is a user's own."""
    return isinstance(arch, str) and ":" in arch


def allow(*specs: str | None) -> None:
    """Let this process call the functions that the user named; other architectures need nothing."""
    _allowed.update(spec for spec in specs if spec is not None and is_own(spec))


def build(spec: str, num_classes: int | None) -> nn.Module:
    """Call a user's function that builds a network.

    Args:
        spec: names an importable module and a function in it.
        num_classes: passed on by that name, unless it is None.

    Raises:
        UserError: only a file names it, there is no such module or function, it fails, or returns
            no network.
    """
    if spec not in _allowed:
        raise UserError(
            f"{spec!r} is code of your own, which a file may not start: add --own {spec}"
        )
    module_name, _, function_name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{spec!r}: cannot import {module_name!r}: {error}") from None
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{spec!r}: module {module_name!r} has no function {function_name!r}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = function(**options)
    except Exception as error:
        # Whatever a user's function raises is news about that function.
        raise UserError(f"{spec!r} failed: {type(error).__name__}: {error}") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec!r} returned {type(model).__name__}, which is no torch network")
    return model
