"""The forms of a training step that stage d compares: called from Python, or as a CUDA graph."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness import methods
from benchmarks.qat import memory as qat_memory
from benchmarks.qat import networks as qat_networks
from benchmarks.qat.networks import (
    DEPTHWISE,
    OURS,
    RECOMPUTE,
    SILU,
    VARIANTS,
    Size,
    Training,
)

Form = Callable[[], object]

MIB = 2**20
# Of the forms that are captured as well, the names of their graphs, in order of worth.
GRAPHED = {name: f"{name}, graph" for name in (SILU, OURS, DEPTHWISE, RECOMPUTE)}
_CALLED = {graph: name for name, graph in GRAPHED.items()}


def is_compiled(name: str) -> bool:
    """Whether torch compiles a form."""
    return name not in _CALLED and VARIANTS[name].compiled


def what(name: str) -> str:
    """Return what a form is, in words."""
    if name in _CALLED:
        return f"the whole step of `{_CALLED[name]}` replayed as one CUDA graph"
    return VARIANTS[name].what


def build(name: str, size: Size) -> Form:
    """Build one form and run its first step. Raises Unavailable."""
    made = partial(qat_networks.build, _CALLED.get(name, name), size)
    return (methods.captured if name in _CALLED else methods.tried)(made, size.device)


def weigh(name: str, form: Form, device: str) -> tuple[float | None, float | None]:
    """Measure in MiB what a forward pass keeps, and the peak of two steps; not of a graph.

    A graph keeps the memory of its step for itself.
    """
    if not isinstance(form, Training):
        return None, None
    peak_of = qat_memory.peak_above_start if device == "cpu" else qat_memory.peak_on_device
    peak = peak_of(form) / MIB
    if is_compiled(name):
        return None, peak
    saved = qat_memory.saved_bytes(form.loss, form.network.parameters()) / MIB
    form.optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.empty_cache()
    return saved, peak
