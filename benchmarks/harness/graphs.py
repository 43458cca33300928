"""Steps captured in a CUDA graph: a replay is one launch, so a timer sees the device alone."""

import functools
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness.timing import Step, collector_off
from micronet.training.steps.graph import WARM_UP

# torch's allocator goes on asking a graph whose capture broke off whether it is being captured.
_BROKEN: list[torch.cuda.CUDAGraph] = []


@dataclass(frozen=True)
class Replay:
    """Does on the device what was captured; keeps the step, whose tensors the graph works on."""

    graph: torch.cuda.CUDAGraph
    step: Step

    def __call__(self) -> None:
        """Launch the graph."""
        self.graph.replay()


@functools.cache
def _side() -> torch.cuda.Stream:
    # One for all captures: libraries keep a workspace for each stream.
    return torch.cuda.Stream()


def capture(step: Step, calls: int = 1, pool: Any = None) -> Replay:
    """Return what replays `calls` runs of a step as one graph.

    Graphs that are never replayed at the same time may share the memory of a `pool`, which is what
    torch.cuda.graph_pool_handle gives. The step must leave no gradient behind.

    Raises whatever the step or CUDA fails with where a graph cannot hold the step.
    """
    side, graph = _side(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    # Around the capture as well: one that fails leaves its stream the current one.
    with collector_off(), torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
        _run_without_waiting(step)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=side):
                for _ in range(calls):
                    step()
        except Exception:
            _BROKEN.append(graph)
            raise
    torch.cuda.current_stream().wait_stream(side)
    return Replay(graph, step)


def _run_without_waiting(step: Step) -> None:
    """Refuse a step that waits for the device here, rather than by a capture that is broken off.

    A broken capture leaves its memory and torch's random numbers as they are within one.
    """
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
