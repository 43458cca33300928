"""What a training step keeps: bytes saved for its backward pass, and the process's peak."""

import contextlib
import resource
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def saved_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Return the bytes that a forward pass keeps, each storage once, parameters left out."""
    saved: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = forward()
    for parameter in parameters:
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    # Only now may the graph go, and with it the addresses that tell storages apart.
    loss.backward()
    return sum(saved.values())


def peak_above_start(step: Callable[[], object], steps: int = 2) -> int:
    """Return by how many bytes resident memory rises above that before the first step.

    The high-water mark is set back first where the system can, so that nothing before counts.
    """
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    start = _peak()
    for _ in range(steps):
        step()
    return _peak() - start


def peak_on_device(step: Callable[[], object], steps: int = 2) -> int:
    """Return by how many bytes what is allocated on the CUDA device rises above that at the start.

    Of the last step alone: the first one makes the optimizer's state, which stays.
    """
    for _ in range(steps - 1):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - start


def _peak() -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
