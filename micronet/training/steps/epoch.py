"""The steps of one epoch, which the host hands to the device without waiting for what they give."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from micronet.compression.distillation import Teacher
from micronet.data.augmentation import mixed
from micronet.data.datasets import Data
from micronet.data.seeds import mix
from micronet.pruning import prune
from micronet.training.checkpoint_saver import CheckpointSaver
from micronet.training.evaluation import Accuracy
from micronet.training.optimizer import device_of, learning_rate, runs_ahead, set_learning_rate
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import State
from micronet.training.steps.failure import step_error
from micronet.training.steps.graph import GraphedStepper
from micronet.training.steps.guard import StepGuard
from micronet.training.steps.step import Batch, Stepper
from micronet.utils import distributed
from micronet.utils.deferred import Deferred
from micronet.utils.progress import Running, track

# Steps whose results travel together where the host runs ahead of the device.
STEPS_TOGETHER = 16


class _Taken(NamedTuple):
    """A step whose results the host does not know yet."""

    where: StepLocation
    number: int
    rate: float


class Epoch:
    """Trains one epoch from ``state.progress`` on.

    Args:
        state: of the run.
        plan: of the stage.
        data: training images.
        epoch: from 0.
        teacher: distils where given.
        saver: writes metrics and checkpoints.
    """

    def __init__(
        self,
        state: State,
        plan: TrainingPlan,
        data: Data,
        epoch: int,
        teacher: Teacher | None,
        saver: CheckpointSaver,
    ) -> None:
        self._state, self._plan, self._data, self._epoch = state, plan, data, epoch
        self._saver = saver
        self._began = time.monotonic() - state.progress.seconds
        self._sparsity = prune.shown_sparsity(state.model, state.compression.masks.bits)
        ahead = runs_ahead(device_of(state.model))
        self._together = STEPS_TOGETHER if ahead else 1
        guard = StepGuard(state, plan.train.loss_limit, deferred=ahead)
        wrapped = distributed.wrap(state.model if state.compiled is None else state.compiled)
        stepper = Stepper(state, wrapped, plan, teacher, guard)
        self._guard = guard
        self._stepper = GraphedStepper(stepper) if plan.train.cuda_graph else stepper
        self._results = Deferred[_Taken](self._together)

    def train(self, stop: StopRequest) -> Accuracy:
        """Take a step for each batch that is left; return the accuracy on the epoch's batches.

        Raises:
            UserError: a step was not sound; the state is that before it.
            Stopped: ``stop`` was asked for.
        """
        self._state.model.train()
        done, steps = self._state.progress, self._data.steps_per_epoch
        shown = batches = self._data.train(self._epoch, done.step)
        if distributed.is_first():
            label = f"{self._plan.stage} epoch {self._epoch + 1}/{self._plan.train.epochs}"
            shown = track(batches, steps - done.step, label, self._running)
        try:
            for images, labels in stop.watch(shown, self._together):
                self._step(images, labels)
        except Stopped:
            self._learn(self._results.flush())
            raise
        self._learn(self._results.flush())
        total = done.total
        return Accuracy(done.correct, done.correct, total, 0, done.loss_sum / max(total, 1))

    def _step(self, images: Tensor, labels: Tensor) -> None:
        state, done = self._state, self._state.progress
        steps = self._data.steps_per_epoch
        batch = self._prepared(images, labels, done.step)
        rate = rate_at(state, self._plan, self._epoch + done.step / steps)
        set_learning_rate(state.optimizer, rate)
        where = StepLocation(self._plan.stage, self._epoch, done.step, self._saver.last_good())
        number = self._epoch * steps + done.step + 1
        row = self._stepper.take(batch, where, number)
        done.step += 1
        self._learn(self._results.add(_Taken(where, number, rate), row))
        if self._saver.is_due(done.step):
            self._learn(self._results.flush())
            self._saver.save_last(state)

    def _prepared(self, images: Tensor, labels: Tensor, step: int) -> Batch:
        """Return a step's batch as it is learned, and let torch draw from the step's stream."""
        seed = mix(self._plan.train.seed, self._epoch, step, distributed.rank())
        torch.manual_seed(seed)
        targets, augment = labels, self._plan.augment
        if augment is not None:
            images, targets = mixed(images, labels, self._data.num_classes, augment, seed)
        return Batch(images, labels, targets)

    def _learn(self, arrived: Iterator[tuple[_Taken, list[float]]]) -> None:
        """Take in what steps gave, or stop at one that was not sound."""
        for taken, (correct, images, loss_sum, sound) in arrived:
            if not sound:
                raise self._error(taken)
            seconds = time.monotonic() - self._began
            self._state.progress.add(correct, images, loss_sum, seconds)
            self._saver.step(taken.number, loss_sum / images, taken.rate)

    def _error(self, taken: _Taken) -> Exception:
        guard, step = self._guard, taken.where.step
        guard.forget(taken.number)

        def again() -> Batch:
            return self._prepared(*next(self._data.train(self._epoch, step)), step)

        return step_error(guard, self._state.model, self._plan, taken.where, again)

    def _running(self) -> Running | None:
        """Return what the epoch so far looks like, or None before its first results."""
        done, epochs = self._state.progress, self._plan.train.epochs
        if not done.total:
            return None
        left = self._data.steps_per_epoch * (epochs - self._state.epoch) - done.step
        return Running(
            loss=done.loss_sum / done.total,
            top1=100.0 * done.correct / done.total,
            sparsity=self._sparsity,
            images_per_second=done.total / done.seconds,
            seconds_left=left * done.seconds / done.step,
        )


def rate_at(state: State, plan: TrainingPlan, progress: float) -> float:
    """Return the learning rate at ``progress`` epochs since the start of the run."""
    scaled = state.plateau.scale * learning_rate(plan.train, progress)
    return max(scaled, plan.train.lr_min)
