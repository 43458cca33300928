"""The table operator x backend, what is available, and `use_backend`.

Automatic choice takes the first backend of the table with a kernel for the device: native, Triton,
and else the plain PyTorch specification. A forced choice never falls back: it raises.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .backends import native, reference, triton

# Backend -> device type -> operator -> implementation; "any" serves every device.
TABLE: dict[str, dict[str, dict[str, Callable[..., Any]]]] = {
    "native": native.TABLE,
    "triton": triton.TABLE,
    "reference": {"any": reference.TABLE},
}

# Backend -> why it may have no kernels here.
WHY_MISSING = {"native": native.WHY_MISSING, "triton": triton.WHY_MISSING}
# Triton's interpreter serves tests; nobody would choose its speed.
ONLY_FORCED = {("triton", "cpu")}

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
    if name not in TABLE:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(TABLE)}")
    if name not in available_backends():
        raise RuntimeError(f"backend {name!r} is not available: {WHY_MISSING[name]}")
    before = _forced
    _force(name)
    try:
        yield
    finally:
        _force(before)


def _force(name: str | None) -> None:
    global _forced
    _forced = name
    _resolved.clear()
    native.serve(name in (None, "native"))


def call(op: str, args: tuple[Any, ...]) -> Any:
    """Calls the chosen implementation of `op`; the first argument's device decides."""
    first = args[0][0] if isinstance(args[0], list) else args[0]
    device_type = first.device.type
    implementation = _resolved.get((op, device_type))
    if implementation is None:
        implementation = _resolved[op, device_type] = _choose(op, device_type)
    return implementation(*args)


def _choose(op: str, device_type: str) -> Callable[..., Any]:
    automatic = [name for name in TABLE if (name, device_type) not in ONLY_FORCED]
    for name in automatic if _forced is None else (_forced,):
        implementation = _find(name, op, device_type)
        if implementation is not None:
            return implementation
    raise RuntimeError(f"backend {_forced!r} has no {op} for {device_type} tensors")


def _find(name: str, op: str, device_type: str) -> Callable[..., Any] | None:
    devices = TABLE[name]
    found = devices.get(device_type, {}).get(op)
    return found if found is not None else devices.get("any", {}).get(op)


_force(None)
