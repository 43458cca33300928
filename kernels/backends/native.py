"""Loads the compiled extension, when it was built, and lists its kernels by device."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

WHY_MISSING = "the extension micronet_kernels._C is not built"


def _load() -> Any | None:
    # Only absence is forgiven: an extension that is there but cannot be loaded raises.
    try:
        extension = import_module("micronet_kernels._C")
    except ModuleNotFoundError:
        return None
    extension.obey_environment()
    return extension


def _table() -> dict[str, dict[str, Callable[..., Any]]]:
    if _EXTENSION is None:
        return {}
    alone = set(_EXTENSION.ON_CPU_ALONE)
    return {
        device: {
            op: getattr(_EXTENSION, op)
            for op in _EXTENSION.OPERATORS
            if device == "cpu" or op not in alone
        }
        for device in _EXTENSION.DEVICES
    }


_EXTENSION = _load()


# Device type -> operator -> kernel. The extension says which devices it was compiled for. Of the
# instruction sets of the CPU it takes the best, or the one that MICRONET_CPU names.
TABLE: dict[str, dict[str, Callable[..., Any]]] = _table()

# Calls the operator fake_quant_weights of torch's dispatcher; None without the extension.
DISPATCH_WEIGHTS: Callable[..., list[Any]] | None = getattr(_EXTENSION, "dispatch_weights", None)


def set_router(route: Callable[[str, tuple[Any, ...]], Any]) -> None:
    """Names what the extension's own dispatcher kernels hand a call to that is not theirs."""
    if _EXTENSION is not None:
        _EXTENSION.set_router(route)


def serve(wanted: bool) -> None:
    """Lets the extension's own dispatcher kernels serve calls, or hand all of them on."""
    if _EXTENSION is not None:
        _EXTENSION.serve_natively(wanted)
