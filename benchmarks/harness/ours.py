"""The operators of micronet as they stand in a training step, each on a backend by force."""

from collections.abc import Callable

import torch
from torch import Tensor

import micronet_kernels as kernels
from micronet_kernels import dispatch

LEVELS, DECAY = 16, 0.99
# The range of the methods that do not look for one.
LO, HI = -4.0, 4.0

Function = Callable[[Tensor], Tensor]


def backends(op: str, device: str) -> list[str]:
    """Return the backends that have `op` on `device`, the preferred one first."""
    return dispatch.available(op, device)


def on(backend: str, step: Callable[[], object]) -> Callable[[], object]:
    """Return the step, run on one backend, its backward pass included."""

    def forced() -> object:
        with kernels.use_backend(backend):
            return step()

    return forced


def _state(device: str) -> tuple[Tensor, Tensor, Tensor]:
    ema, ends = torch.zeros(2, device=device), torch.zeros(2, device=device)
    return ema, ends, torch.zeros(1, dtype=torch.int64, device=device)


def exact(device: str) -> Function:
    """The range moves first and rounds the batch that moved it: x is read twice."""
    ema, ends, count = _state(device)

    def function(x: Tensor) -> Tensor:
        kernels.update_range_(x.detach(), ema, ends, count, DECAY)
        return kernels.fake_quant_per_tensor(x, ends, LEVELS)

    return function


def last_step(device: str) -> Function:
    """Rounding to the range of the step before, and finding this one's, in a single read."""
    ema, ends, count = _state(device)

    def function(x: Tensor) -> Tensor:
        y, found = kernels.fake_quant_per_tensor_observed(x, ends, count, LEVELS)
        kernels.move_range_(found.detach(), ema, ends, count, DECAY)
        return y

    return function


def frozen(device: str) -> Function:
    """The arithmetic of evaluation: the range stays."""
    ends = torch.tensor([LO, HI], device=device)
    return lambda x: kernels.fake_quant_per_tensor(x, ends, LEVELS)


def saved_bytes_per_element(backend: str, elements: int, device: str = "cpu") -> float:
    """Return the bytes an element that the exact step keeps for backward beside its output."""
    saved: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    # Of a generator of its own: torch's cannot be used once a capture of a graph broke off.
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(elements, generator=generator, device=device, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    with kernels.use_backend(backend), hooks:
        y = exact(device)(x)
    saved.pop(y.untyped_storage().data_ptr(), None)
    return sum(saved.values()) / elements
