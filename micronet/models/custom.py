"""Networks of a user's own: ``module:function`` where else an architecture's name stands.

Calling the function runs its code, so only a command line may name one. A checkpoint, a plan or a
schedule that does is refused unless the command line allows it.
"""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from micronet.models.failures import failures_of, reason
from micronet.utils.errors import UserError

# What stands before the name of a network of timm's, which is no user's own.
TIMM = "timm:"

_allowed: set[str] = set()
# Two networks of a command, such as a run and its teacher, must not be one.
_built: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def is_own(arch: object) -> bool:
    """Whether an architecture is a user's own."""
    return isinstance(arch, str) and ":" in arch and not arch.startswith(TIMM)


def allow(*specs: str | None) -> None:
    """Let this process call the functions that the user named; other architectures need nothing."""
    _allowed.update(spec for spec in specs if spec is not None and is_own(spec))


def build(spec: str, num_classes: int | None) -> nn.Module:
    """Call a user's function that builds a network.

    Args:
        spec: names an importable module and a function in it.
        num_classes: passed on by that name, unless it is None.

    Raises:
        UserError: only a file names it, there is no such module or function, it fails, or returns
            no network.
    """
    if spec not in _allowed:
        raise UserError(
            f"{spec!r} is code of your own, which a file may not start: add --own {spec}"
        )
    function = _function(spec)
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = _called(spec, lambda: function(**options))
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec!r} returned {type(model).__name__}, which is no torch network")
    model = unwrapped(model)
    check_layers(f"{spec!r} returned", model)
    if model in _built:
        raise UserError(f"{spec!r} returned the same network twice: it must build a new one")
    _built.add(model)
    return model


def _function(spec: str) -> Callable[..., Any]:
    """Import what a user's function is in; return the function."""
    module_name, _, function_name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # A module's code runs when it is imported, and may raise anything.
        text = str(error) if isinstance(error, (ImportError, ValueError)) else reason(error)
        raise UserError(f"{spec!r}: cannot import {module_name!r}: {text}") from None
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{spec!r}: module {module_name!r} has no function {function_name!r}")
    return function


def _called(spec: str, build: Callable[[], object]) -> object:
    with failures_of(f"{spec!r} failed"):
        return on_default_device(build)


def on_default_device(build: Callable[[], Any]) -> Any:
    """Call what builds a network; on the meta device, where it cannot, move what it returns there.

    A constructor may compute with tensors, as with the rates of stochastic depth.
    """
    if torch.get_default_device().type != "meta":
        return build()
    with contextlib.suppress(Exception):
        return build()
    with torch.device("cpu"):
        model = build()
    return model.to("meta") if isinstance(model, nn.Module) else model


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a network without what torch.compile and DataParallel put around it and its parts.

    The network is trained, quantized and stored under its own names; ``--compile`` compiles it.
    """
    model = innermost(model)
    for module in list(model.modules()):
        # What ``module.compile()`` leaves, and what ``torch.compile`` makes of a method.
        module._compiled_call_impl = None
        plain = getattr(module.forward, "_torchdynamo_orig_callable", None)
        if plain is not None:
            module.forward = plain if "forward" in vars(module) else MethodType(plain, module)
        for name, child in module.named_children():
            setattr(module, name, innermost(child))
    return model


def innermost(module: nn.Module) -> nn.Module:
    """Return what torch.compile and DataParallel stand around, or the module itself."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile stands around a network, in or around what else does."""
    while (inner := _inner(module)) is not None:
        if type(module).__name__ == "OptimizedModule":
            return True
        module = inner
    return False


def _inner(module: nn.Module) -> nn.Module | None:
    """Return what a module is a wrapper of, or None where it is none."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module
    # Its class is torch._dynamo's, which takes a second to import.
    inner = getattr(module, "_orig_mod", None)
    return inner if type(module).__name__ == "OptimizedModule" else None


def check_layers(origin: str, model: nn.Module) -> None:
    """Hold a network to layers that can be seen, and whose weights have a shape already.

    Args:
        origin: how a message begins, up to the network.
        model: the network.

    Raises:
        UserError: it has others.
    """
    for name, module in model.named_modules():
        what = f"{origin} a network{f' with {name!r}' if name else ''}"
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(f"{what} in TorchScript, whose layers cannot be replaced")
        tensors = [*module._parameters.values(), *module._buffers.values()]
        if any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors):
            kind = type(module).__name__
            raise UserError(f"{what}, a {kind}: the shape of its weights must be given")
        if any(type(tensor).__name__ == "DTensor" for tensor in tensors):
            raise UserError(f"{what} whose parameters are sharded over processes")
