"""Registers operators: one router for every device and a fake, both behind the same check."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import checks, dispatch

LIBRARY = torch.library.Library("micronet", "DEF")
OPS: list[str] = []
_CHECKS: dict[str, Callable[..., None]] = {}
_NODES: dict[str, type[torch.autograd.Function]] = {}


def route(name: str, args: tuple[Any, ...]) -> Any:
    """Checks the arguments of an operator and runs the implementation that is chosen for them."""
    _CHECKS[name](*args)
    return dispatch.call(name, args)


dispatch.native.set_router(route)


def define(signature: str, check: Callable[..., None], fake: Callable[..., Any]) -> None:
    """Registers the operator of a schema; `fake` describes the outputs of what passes `check`."""
    name = signature.split("(", 1)[0]

    def run(*args: Any) -> Any:
        return route(name, args)

    def run_fake(*args: Any) -> Any:
        check(*args)
        return fake(*args)

    LIBRARY.define(signature)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"micronet::{name}", run_fake, lib=LIBRARY)
    _CHECKS[name] = check
    OPS.append(name)


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Registers the gradient of an operator and what its forward pass saves for it."""
    torch.library.register_autograd(f"micronet::{name}", backward, setup_context=save, lib=LIBRARY)
    differentiate_again(name, backward, save)


def differentiate_again(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """As `differentiate`, for an operator of backward passes, which `call_backward` calls.

    The dispatcher does not get to know, since that would make every first derivative slower.
    """
    overload = getattr(torch.ops.micronet, name).default
    members = {
        "generate_vmap_rule": True,
        "forward": staticmethod(lambda *args: overload(*args)),
        "setup_context": staticmethod(save),
        "backward": staticmethod(backward),
    }
    _NODES[name] = type(f"{name}_node", (torch.autograd.Function,), members)


def refuse_again(name: str, what: str) -> None:
    """An operator of backward passes that has no gradient: what differentiates it is told so."""

    def refuse(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            f"{what} has a first derivative only: what create_graph=True was asked for needs a "
            "second one"
        )

    differentiate_again(name, refuse, lambda ctx, inputs, output: None)


def call_with_gradient(name: str, *args: Any) -> Any:
    """Calls an operator that `differentiate` knows, under functorch's transforms as well.

    Those do not look at the gradients that torch.library registers.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return getattr(torch.ops.micronet, name).default(*args)
    return _NODES[name].apply(*args)


def call_backward(name: str, *args: Any) -> Any:
    """Calls an operator of a backward pass, with its own gradient where one may be asked for."""
    if torch.is_grad_enabled():
        return _NODES[name].apply(*args)
    return getattr(torch.ops.micronet, name).default(*args)


def empty(x: Tensor, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
    """A fresh tensor on x's device."""
    return torch.empty(shape, dtype=dtype, device=x.device)


def empty_bits(x: Tensor) -> Tensor:
    """A fresh tensor for one bit of each element of x."""
    return empty(x, (checks.bytes_for(x.numel()),), torch.uint8)


def dense(x: Tensor) -> Tensor:
    """x itself where it has no gaps, else a contiguous copy."""
    # A proxy of torch.fx has no memory yet that could have gaps.
    return x if not isinstance(x, Tensor) or checks.is_dense(x) else x.contiguous()


def laid_out(grad: Tensor, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    """The gradient in the memory order of the tensor that it belongs to."""
    if grad.stride() == strides:
        return grad
    copy = torch.empty_strided(shape, strides, dtype=grad.dtype, device=grad.device)
    return copy.copy_(grad)


def no_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, or the empty one that keeps every element."""
    return x.new_empty(0, dtype=torch.uint8) if mask is None else mask
