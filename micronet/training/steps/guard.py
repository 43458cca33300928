"""A step that is not sound leaves no trace: what decides it, and what is given back.

Everything is decided on the device. Once a step has failed, no later one changes anything either,
so that the host may learn of it some steps later and still finds the state before that step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from micronet.compression.parameters import learned_by_quantizers
from micronet.quantization import quantize
from micronet.quantization.faults import Learned
from micronet.training.optimizer import optimizer_tensors
from micronet.training.state import State
from micronet.training.steps.snapshot import Snapshot
from micronet.utils import distributed


class Outcome(NamedTuple):
    """What the batch of a step gave, on the device.

    Attributes:
        loss: the mean over its images, float64.
        correct: the number of images whose largest logit is their label's.
        losses: the mean of each part, float32.
        images: their number, on the host.
    """

    loss: Tensor
    correct: Tensor
    losses: Tensor
    images: int


class _Names(NamedTuple):
    """Which tensors a state has that steps add to it: averages by name, and of the optimizer."""

    averages: frozenset[str]
    optimized: frozenset[Tensor]


class StepGuard:
    """Keeps what a step changes until the step turns out to be sound.

    It is sound if its losses, the ranges of activations, the norm of the gradient where that is
    clipped, and the learned steps and offsets afterwards are all finite, no loss is above the
    limit, and every learned step is positive.

    Args:
        state: of the run, at the start of an epoch.
        loss_limit: the highest loss of a sound step.
        deferred: whether the host must not read what is on the device; see ``Snapshot``.
    """

    def __init__(self, state: State, loss_limit: float, deferred: bool) -> None:
        self._state, self._loss_limit, self._deferred = state, loss_limit, deferred
        self._before_forward, self._before_update = Snapshot(deferred), Snapshot(deferred)
        self._learned = Learned.of(state.model)
        self._ranges = quantize.input_ranges(state.model)
        device = next(state.model.parameters()).device
        # These are written in place, so that a captured step finds what the one before it left.
        self._sound = torch.ones((), dtype=torch.bool, device=device)
        # Of the newest step, or of the first that failed.
        self._evidence: dict[str, Tensor] = {}
        self._known = self._names()
        self._added: dict[int, _Names] = {}

    def begin(self) -> None:
        """Take what the forward pass moves: ranges, statistics, and what quantizers learn."""
        model = self._state.model
        self._before_forward.save([*model.buffers(), *learned_by_quantizers(model)])

    @torch.no_grad()
    def judge(self, outcome: Outcome, norm: Tensor | None) -> Tensor:
        """Decide before the update whether the step is sound; take what the update moves.

        Args:
            outcome: of the forward pass.
            norm: of the gradient, None where it is not known.

        Returns:
            Of all processes, float64 (4,): correct images, images, the sum of their losses, and
            the number of processes whose step is not sound.
        """
        above = ~(outcome.losses <= self._loss_limit)
        # The first of them, or the first of all where none is: batches may differ in their parts.
        first = above.int().argmax(keepdim=True)
        self._note("loss", outcome.losses.index_select(0, first))
        failed = above.any()
        if norm is not None:
            failed = failed | ~self._note("norm", norm).isfinite()
        if self._ranges:
            ranges = self._note("ranges", torch.stack(list(self._ranges.values())))
            failed = failed | ~ranges.isfinite().all()
        images = torch.full_like(outcome.loss, outcome.images)
        own = outcome.correct.double(), images, outcome.loss * images, failed.double()
        sums = distributed.sum_of_all(torch.stack(own))
        self._sound.logical_and_(sums[3] == 0)
        # Where the host may ask, a sound step without learned steps has nothing left to fail.
        if self._deferred or self._learned.steps or not bool(self._sound):
            self._before_update.save(self._updated())
        return sums

    @torch.no_grad()
    def settle(self, sums: Tensor, number: int) -> Tensor:
        """Decide after the update whether the step is sound, and give all back if it is not.

        Args:
            sums: what ``judge`` returned.
            number: of the step in the run.

        Returns:
            Of all processes, float64 (4,): correct images, images, the sum of their losses, and
            1 where this step and all before it are sound, else 0.
        """
        if self._learned.steps:
            learned = self._note("learned", self._learned.together())
            self._sound.logical_and_(self._learned.are_sound(learned))
        self._before_update.restore_unless(self._sound)
        self._before_forward.restore_unless(self._sound)
        names = self._names()
        if names != self._known:
            averages = names.averages - self._known.averages
            self._added[number] = _Names(averages, names.optimized - self._known.optimized)
            self._known = names
        return torch.cat((sums[:3], self._sound.double()[None]))

    def _names(self) -> _Names:
        optimizer, average = self._state.optimizer, self._state.compression.average
        return _Names(frozenset(average.tensors), frozenset(optimizer.state))

    def _updated(self) -> list[Tensor]:
        state = self._state
        optimizer = state.optimizer
        optimized = [t for p in optimizer.state for t in optimizer_tensors(optimizer, p).values()]
        averages = state.compression.average.tensors.values()
        curvature = state.compression.curvature.tensors.values()
        followed = state.compression.oscillations.tensors
        return [*state.model.parameters(), *optimized, *averages, *curvature, *followed]

    def _note(self, name: str, now: Tensor) -> Tensor:
        """Keep evidence unless an earlier step has failed, and return it as it was given."""
        if name not in self._evidence:
            self._evidence[name] = torch.ones_like(now)
        kept = self._evidence[name]
        kept.copy_(torch.where(self._sound, now, kept))
        return now

    def forget(self, number: int) -> None:
        """Take from the state what steps have added to it from number ``number`` on."""
        for added in (names for taken, names in self._added.items() if taken >= number):
            for name in added.averages:
                del self._state.compression.average.tensors[name]
            for parameter in added.optimized:
                del self._state.optimizer.state[parameter]
        quantize.reread_zero_points(self._state.model)

    def evidence(self, name: str) -> Tensor:
        """Return the loss, the norm, the ranges or what is learned of the first step that failed.

        They are on the CPU, at least of one dimension, and empty where the step has none.
        """
        return self._evidence.get(name, torch.empty(0)).cpu().flatten()

    def rejected_ranges(self) -> list[str]:
        """Return the layers whose input's range was not finite in the step that failed."""
        found = self.evidence("ranges").view(-1, 2).isfinite().all(1).tolist()
        return [name for name, finite in zip(self._ranges, found, strict=True) if not finite]

    def rejected_learned(self) -> Learned:
        """Return the learned steps and offsets after the step that failed."""
        return self._learned.with_values(self.evidence("learned"))
