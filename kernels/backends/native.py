"""Loads the compiled extension, when it was built, and lists its kernels by device."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

WHY_MISSING = "the extension micronet_kernels._C is not built"


def _table() -> dict[str, dict[str, Callable[..., Any]]]:
    # Only absence is forgiven: an extension that is there but cannot be loaded raises.
    try:
        extension = import_module("micronet_kernels._C")
    except ModuleNotFoundError:
        return {}
    return {
        device: {op: getattr(extension, op) for op in ops}
        for device, ops in extension.kernels().items()
    }


# Device type -> operator -> kernel. The extension says which devices it was compiled for.
TABLE: dict[str, dict[str, Callable[..., Any]]] = _table()
