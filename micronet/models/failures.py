"""What a network's own code raises or returns, as one sentence about that network."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from micronet.utils import distributed
from micronet.utils.errors import UserError

# Of a foreign message, so that a sentence stays one.
_LONGEST = 300
# What training puts around a network, which is no part of it.
_WRAPPERS = ("DistributedDataParallel", "OptimizedModule")
_PASSED_ON = (UserError, distributed.LostProcess)


def reason(error: BaseException) -> str:
    """Return an exception as text on one line: its type and, where it has one, its message."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        # An exception's own __str__ is a user's code too.
        text = ""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


@contextlib.contextmanager
def failures_of(problem: str, ending: str = "") -> Iterator[None]:
    """Report whatever a network's code raises inside as ``problem``, the module and the reason.

    Args:
        problem: what did not work, such as ``'lenet' does not take an image of 3x16x16``.
        ending: what follows the reason.

    Raises:
        UserError: anything but a ``UserError``, a lost process or Ctrl-C was raised.
    """
    try:
        yield
    except _PASSED_ON:
        raise
    except (Exception, SystemExit) as error:
        if distributed.says_lost(error):
            raise
        place = _location(error)
        raise UserError(f"{problem}: {place}{reason(error)}{ending}") from error


def _location(error: BaseException) -> str:
    """Return ``in module 'x': `` or, where it is none, the user's line that raised, or nothing.

    The outermost module of the traceback is the network, the innermost where it happened.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    modules = [module for module in modules if type(module).__name__ not in _WRAPPERS]
    if not modules:
        return ""
    names = {id(module): name for name, module in modules[0].named_modules()}
    name = next((names[id(m)] for m in reversed(modules) if names.get(id(m))), "")
    return f"in module {name!r}: " if name else _line(frames)


def _line(frames: list[tuple[FrameType, int]]) -> str:
    """Return ``net.py:12: `` for the innermost line that is neither torch's nor of this package."""
    ours = (os.path.dirname(torch.__file__), str(Path(__file__).parents[1]))
    for frame, line in reversed(frames):
        path = frame.f_code.co_filename
        if not path.startswith((*ours, "<")):
            return f"{os.path.basename(path)}:{line}: "
    return ""


def logits_of(output: object, images: int, name: str, classes: int | None = None) -> Tensor:
    """Hold what a network returned to logits, shape (images, classes); return them.

    One image's vector of logits counts as a batch of one: it is what ``squeeze`` leaves of it.

    Args:
        output: of the network.
        images: that it was given.
        name: of the network, for messages.
        classes: of the data; None takes any number.

    Raises:
        UserError: it is something else.
    """
    wanted = f"{images}x{'classes' if classes is None else classes}"
    problem = f"{name} returned {_described(output)} for {images} image{'s' * (images > 1)}"
    if not isinstance(output, Tensor):
        raise UserError(f"{problem}; it must return one tensor of logits, {wanted}")
    logits = output[None] if output.dim() == 1 and images == 1 else output
    fits = logits.dim() == 2 and len(logits) == images and classes in (None, logits.shape[1])
    if not (fits and logits.is_floating_point()):
        raise UserError(f"{problem}; it must return one logit for each class, {wanted}")
    return logits


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        sides = "x".join(map(str, output.shape))
        dtype = str(output.dtype).removeprefix("torch.")
        return f"a tensor of {sides} ({dtype})" if sides else f"a scalar ({dtype})"
    if output is None:
        return "None"
    kind = type(output).__name__
    kind = f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    if isinstance(output, Mapping):
        return f"{kind} of {', '.join(map(repr, list(output)[:3])) or 'nothing'}"
    return f"{kind} of {len(output)}" if isinstance(output, (tuple, list)) else kind
