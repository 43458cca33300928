"""Large packages that are imported when something of them is first used.

Torchvision imports torch's compiler and with it sympy, which takes a command as long as torch
itself; most commands need nothing of it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    """Reads like the module of its name, which it imports."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def lazy(name: str) -> Any:
    """Return a stand-in for a module, which is imported when an attribute is read.

    Type checkers see the module where the import itself stands beside it, under ``TYPE_CHECKING``.

    Args:
        name: of the module, with its packages'.
    """
    return _LazyModule(name)


def is_imported(package: str) -> bool:
    """Whether something has imported a package, without which no object is one of its classes."""
    return package in sys.modules
