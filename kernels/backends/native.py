"""Loads the compiled extension, when it was built, and lists its kernels by device."""

import os
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
    wanted = os.environ.get("MICRONET_CPU")
    if wanted:
        extension.use_instruction_set(wanted)
    kernels = {op: getattr(extension, op) for op in extension.OPERATORS}
    return {device: kernels for device in extension.DEVICES}


# Device type -> operator -> kernel. The extension says which devices it was compiled for. Of the
# instruction sets of the CPU it takes the best, or the one that MICRONET_CPU names.
TABLE: dict[str, dict[str, Callable[..., Any]]] = _table()
