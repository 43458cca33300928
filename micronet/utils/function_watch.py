"""Watching which functions of torch a piece of code calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode


class FunctionWatch(TorchFunctionMode):
    """Sees each call of a function of torch in ``called``, which a subclass defines."""

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the call's result; the functions that it calls are not seen."""
        return func(*args, **kwargs)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Hand the call on."""
        return self.called(func, args, kwargs or {})
