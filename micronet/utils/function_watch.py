"""Watching which functions of torch a piece of code calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle


class FunctionWatch(TorchFunctionMode):
    """Sees each call of a function of torch in ``called``, which a subclass defines.

    Hooks of modules that a subclass puts into ``_hooks`` are removed where the context ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hooks: list[RemovableHandle] = []

    def __exit__(self, *error: Any) -> None:
        """Watch no longer."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

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
