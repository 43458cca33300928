"""Loads the compiled extension, when it was built, and lists its kernels by device."""

from collections.abc import Callable
from typing import Any

try:
    from .. import _C

    WHY_MISSING = ""
except ImportError as error:
    _C = None
    WHY_MISSING = f"the extension micronet_kernels._C cannot be loaded ({error})"


def _table() -> dict[str, dict[str, Callable[..., Any]]]:
    if _C is None:
        return {}
    return {device: {op: getattr(_C, op) for op in ops} for device, ops in _C.kernels().items()}


# Device type -> operator -> kernel. The extension says which devices it was compiled for.
TABLE: dict[str, dict[str, Callable[..., Any]]] = _table()
