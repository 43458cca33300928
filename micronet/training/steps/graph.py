"""Steps replayed as one CUDA graph, which spares the host the launch of every kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from micronet.models.failures import failures_of
from micronet.training.plan import StepLocation
from micronet.training.steps.step import Batch, Stepper

# Steps that are taken one kernel after the other first: they allocate momentum, averages and the
# workspaces of libraries, and start learned quantizers.
WARM_UP = 3

Take = Callable[[], Tensor]


def capture(take: Take) -> Take:
    """Capture what ``take`` does on the device; return what does it again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row = take()

    def again() -> Tensor:
        graph.replay()
        return row.clone()

    return again


class GraphedStepper:
    """Takes steps by replaying one that was captured, where a batch has that one's shape.

    Args:
        stepper: of the epoch, whose optimizer keeps its rate on the device.
        capture: makes of a step what takes it again; the default needs CUDA.
    """

    def __init__(self, stepper: Stepper, capture: Callable[[Take], Take] = capture) -> None:
        self._stepper, self._capture = stepper, capture
        self._taken = 0
        self._batch: Batch | None = None
        self._share = torch.zeros((), device=next(stepper.state.model.parameters()).device)
        self._again: Take | None = None

    def take(self, batch: Batch, where: StepLocation, number: int) -> Tensor:
        """Take one step; see ``Stepper.take``.

        Raises:
            UserError: the step cannot be captured.
        """
        self._taken += 1
        # On the device in every step, so that replayed or not they round alike.
        self._share.fill_(self._stepper.state.compression.average.share(number))
        if self._taken <= WARM_UP:
            return self._stepper.take(batch, where, number, self._share)
        if self._batch is None:
            self._batch = Batch(*(tensor.to(self._share.device).clone() for tensor in batch))
        if any(new.shape != own.shape for new, own in zip(batch, self._batch, strict=True)):
            return self._stepper.take(batch, where, number, self._share)
        for own, new in zip(self._batch, batch, strict=True):
            own.copy_(new, non_blocking=True)
        if self._again is None:
            self._again = self._captured(self._batch, where, number)
        return self._again()

    def _captured(self, batch: Batch, where: StepLocation, number: int) -> Take:
        with failures_of(f"{where} cannot be captured as a CUDA graph", where.last_good):
            return self._capture(lambda: self._stepper.take(batch, where, number, self._share))
