"""One optimizer step, all of it on the device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.compression.distillation import Teacher
from micronet.models.failures import failures_of, logits_of
from micronet.training.optimizer import (
    autocast,
    clip_gradients,
    device_of,
    in_order,
    memory_order,
)
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.state import State
from micronet.training.steps.guard import Outcome, StepGuard
from micronet.utils import distributed


class Batch(NamedTuple):
    """Images, their labels, and what is learned: these, or shares of mixed classes."""

    images: Tensor
    labels: Tensor
    targets: Tensor

    def parts(self, plan: TrainingPlan, device: torch.device) -> Iterator[Batch]:
        """Yield the parts that are trained one after the other, as a network takes them."""
        size = -(-len(self.labels) // plan.train.accumulate)
        order = memory_order(plan.train.channels_last)
        for part in zip(*(tensor.split(size) for tensor in self), strict=True):
            images, labels, targets = (tensor.to(device, non_blocking=True) for tensor in part)
            yield Batch(in_order(images, order), labels, targets)


@dataclass(frozen=True)
class Stepper:
    """Takes optimizer steps without waiting for the device.

    Attributes:
        state: of the run.
        wrapped: the state's model, which with several processes meets them on the way back.
        plan: of the stage.
        teacher: distils where given.
        guard: gives back what a step that is not sound has moved.
    """

    state: State
    wrapped: nn.Module
    plan: TrainingPlan
    teacher: Teacher | None
    guard: StepGuard

    def take(
        self, batch: Batch, where: StepLocation, number: int, share: Tensor | None = None
    ) -> Tensor:
        """Take one step, which changes nothing if it or an earlier one is not sound.

        Args:
            batch: of this process.
            where: for messages.
            number: of the step in the run, counted from 1.
            share: of the average; see ``ModelEma.update``.

        Returns:
            What ``StepGuard.settle`` does.
        """
        state, guard = self.state, self.guard
        guard.begin()
        outcome = backward(state, self.wrapped, self.plan, batch, self.teacher, where)
        sums = guard.judge(outcome, clip_gradients(state.model, self.plan.train))
        state.optimizer.step()
        state.compression.update(number, share)
        return guard.settle(sums, number)


def backward(
    state: State,
    wrapped: nn.Module,
    plan: TrainingPlan,
    batch: Batch,
    teacher: Teacher | None,
    where: StepLocation,
) -> Outcome:
    """Leave a batch's mean gradient in the parameters; return its losses and correct images.

    Args:
        state: of the run.
        wrapped: the state's model, or what stands for it.
        plan: of the stage.
        batch: of this process.
        teacher: distils where given.
        where: for messages.
    """
    device, count = device_of(state.model), len(batch.labels)
    state.optimizer.zero_grad(set_to_none=True)
    name = type(state.model).__name__
    losses, sizes, correct = [], [], []
    parts = -(-count // -(-count // plan.train.accumulate))
    for number, part in enumerate(batch.parts(plan, device), 1):
        size = len(part.labels)
        meets = functools.partial(distributed.no_sync, wrapped, last=number == parts)
        with failures_of(f"{name} failed in {where}", where.last_good):
            recomputes = kernels.recompute_in_backward(plan.train.recompute)
            with state.compression.features(teacher):
                with meets(), autocast(device, plan.train.amp), recomputes:
                    logits = logits_of(wrapped(part.images), size, f"{where}: {name}")
                taught = _taught(teacher, part.images, where) if teacher else None
                loss = state.compression.distillation_loss(logits, taught, part.targets)
            shared = loss * (size / count) if size < count else loss
            if number == 1 and state.compression.oscillations.dampens:
                shared = shared + state.compression.dampening_loss()
            with meets():
                shared.backward()
        losses.append(loss.detach())
        sizes.append(size)
        correct.append((logits.detach().argmax(dim=1) == part.labels).sum())
    # In double precision, part after part: the sums of a host that reads each loss.
    summed = functools.reduce(torch.add, map(torch.mul, map(Tensor.double, losses), sizes))
    return Outcome(summed / count, torch.stack(correct).sum(), torch.stack(losses), count)


def _taught(teacher: Teacher, images: Tensor, where: StepLocation) -> Tensor:
    return logits_of(teacher(images), len(images), f"{where}: the teacher")
