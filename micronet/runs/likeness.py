"""Whether two networks compute alike, as far as their modules show without being run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from micronet.utils.errors import UserError

# Attributes that training alone asks for, and what says whether memory is used again.
_OF_TRAINING = {"training", "momentum", "p", "drop_prob", "inplace"}
_PLAIN = (bool, int, float, str, tuple, type(None))


def check_alike(model: nn.Module, other: nn.Module) -> None:
    """Hold a network to the modules of another: their names, classes and plain attributes.

    A pooling that was taken out, another activation or another stride show in no tensor. What a
    ``forward`` of another class of the same name does is not seen.

    Raises:
        UserError: the first module that differs.
    """
    mine, others = dict(model.named_modules()), dict(other.named_modules())
    for name in [*mine, *others]:
        if name not in mine or name not in others:
            raise UserError(f"module {name!r} is only in {'it' if name in mine else 'the other'}")
        if problem := _difference(mine[name], others[name]):
            raise UserError(f"module {name!r} {problem}")


def _difference(module: nn.Module, other: nn.Module) -> str | None:
    kinds = type(module).__name__, type(other).__name__
    # Of several processes or not, a batch normalization evaluates alike.
    both_normalize = isinstance(module, _NormBase) and isinstance(other, _NormBase)
    if kinds[0] != kinds[1] and not both_normalize:
        return f"is a {kinds[0]}, not a {kinds[1]}"
    if "forward" in vars(module) and "forward" not in vars(other):
        return "has a forward of its own"
    values, wanted = _plain(module), _plain(other)
    for key in sorted(values.keys() & wanted.keys()):
        if values[key] != wanted[key]:
            return f"has {key} {values[key]!r}, not {wanted[key]!r}"
    return None


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, _PLAIN) and not key.startswith("_") and key not in _OF_TRAINING
    }
