"""The table operator x backend, what is available, and `use_backend`.

Automatic choice takes the native kernel where there is one for the device and else the
plain PyTorch specification. A forced choice never falls back: it raises.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .backends import native, reference

# Backend -> device type -> operator -> implementation; "any" serves every device.
TABLE: dict[str, dict[str, dict[str, Callable[..., Any]]]] = {
    "native": native.TABLE,
    "reference": {"any": reference.TABLE},
}

# Process-wide on purpose: autograd runs backward kernels of a device in threads of its own.
_forced: str | None = None
_resolved: dict[tuple[str, str], Callable[..., Any]] = {}


def available_backends() -> list[str]:
    """Names of the backends that have kernels here, the preferred one first."""
    return [name for name, devices in TABLE.items() if devices]


def available(op: str, device_type: str) -> list[str]:
    """Names of the backends with a kernel of `op` for `device_type`, the preferred one first."""
    return [name for name in TABLE if _find(name, op, device_type) is not None]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every operator on backend `name` inside the block, in the whole process.

    Raises ValueError for an unknown name, RuntimeError where the backend has no kernels here;
    an operator without a kernel in that backend for its device raises RuntimeError when called.
    """
    global _forced
    if name not in TABLE:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(TABLE)}")
    if name not in available_backends():
        raise RuntimeError(f"backend {name!r} is not available: {native.WHY_MISSING}")
    before = _forced
    _forced = name
    _resolved.clear()
    try:
        yield
    finally:
        _forced = before
        _resolved.clear()


def call(op: str, args: tuple[Any, ...]) -> Any:
    """Calls the chosen implementation of `op`; the first argument's device decides."""
    device_type = args[0].device.type
    implementation = _resolved.get((op, device_type))
    if implementation is None:
        implementation = _resolved[op, device_type] = _choose(op, device_type)
    return implementation(*args)


def _choose(op: str, device_type: str) -> Callable[..., Any]:
    for name in TABLE if _forced is None else (_forced,):
        implementation = _find(name, op, device_type)
        if implementation is not None:
            return implementation
    raise RuntimeError(f"backend {_forced!r} has no {op} for {device_type} tensors")


def _find(name: str, op: str, device_type: str) -> Callable[..., Any] | None:
    devices = TABLE[name]
    found = devices.get(device_type, {}).get(op)
    return found if found is not None else devices.get("any", {}).get(op)
