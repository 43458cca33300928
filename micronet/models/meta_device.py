"""Networks without memory: names, shapes and kinds of layers, but no values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from micronet.utils.function_watch import FunctionWatch

# On the meta device torch computes these in Python, and imports its compiler for the first one.
_DRAWS = {Tensor.normal_, nn.init.normal_, nn.init.kaiming_normal_}


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Create tensors on the meta device in the block, where no initial weights are drawn.

    Torch would draw some: a constructor's ``normal_`` takes half a millisecond for each tensor that
    has no values, and more than a second for the first.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(FunctionWatch):
    """Leaves out what only gives values to a tensor that has none."""

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the tensor itself where it has no memory, else the call's result."""
        if func in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
