"""The training loop: one loop for fitting, pruning and quantization-aware training."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from micronet.compression.compression import Compression
from micronet.compression.distillation import Teacher
from micronet.compression.epoch_facts import epoch_facts
from micronet.data.batches import Batch
from micronet.data.datasets import Data
from micronet.pruning import prune
from micronet.recipe.schema import TrainSection
from micronet.training.checkpoint_saver import CheckpointSaver
from micronet.training.evaluation import Accuracy, evaluate
from micronet.training.optimizer import (
    convolutions,
    device_of,
    in_order,
    make_optimizer,
    memory_order,
)
from micronet.training.plan import TrainingPlan
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import Progress, State
from micronet.training.steps.epoch import Epoch, rate_at
from micronet.utils import distributed
from micronet.utils.errors import UserError


def start(model: nn.Module, plan: TrainingPlan, masks: prune.Masks) -> State:
    """Return the state before the first epoch."""
    compression = Compression(model, plan.compression, plan.train, masks)
    optimizer = make_optimizer(compression, plan.train)
    compiled = cast(nn.Module, torch.compile(model)) if plan.train.compile else None
    return State(compression, optimizer, compiled=compiled)


def train(
    state: State,
    plan: TrainingPlan,
    data: Data,
    saver: CheckpointSaver,
    teacher: Teacher | None = None,
    stop: StopRequest | None = None,
) -> State:
    """Train from where ``state`` is to the recipe's last epoch, a checkpoint after each.

    Args:
        state: changed in place and returned.
        plan: of the stage.
        data: train and validation images.
        saver: writes metrics and checkpoints.
        teacher: distils where given.
        stop: asked after every step and before every validation batch.

    Raises:
        UserError: the loss or an activation range stopped being finite, or a learned step positive.
        Stopped: ``stop`` was asked for; ``last`` holds everything up to the step before.
    """
    stop = stop or StopRequest()
    try:
        with convolutions(plan.train.deterministic):
            for epoch in range(state.epoch, plan.train.epochs):
                _train_and_validate(state, plan, data, epoch, saver, teacher, stop)
    except Stopped:
        # All processes stop after the same step, so that the first one's state is everybody's.
        saver.save_last(state)
        raise
    return state


def _train_and_validate(
    state: State,
    plan: TrainingPlan,
    data: Data,
    epoch: int,
    saver: CheckpointSaver,
    teacher: Teacher | None,
    stop: StopRequest,
) -> None:
    state.compression.begin_epoch(epoch, state.optimizer)
    if state.compression.stale:
        state.model.train()
        _reestimate(state, plan, data, epoch, stop)
    taught_by = teacher if plan.compression.distills(epoch) else None
    trained = Epoch(state, plan, data, epoch, taught_by, saver).train(stop)
    began = time.monotonic()
    distributed.average_statistics(state.model)
    state.compression.average.agree()
    _reestimate(state, plan, data, epoch + 1, stop)
    validated = validate(state, plan, data, stop)
    if not math.isfinite(validated.loss):
        after = f"after {plan.stage} epoch {epoch + 1}"
        raise UserError(f"the validation loss is {validated.loss} {after}{saver.last_good()}")
    seconds = state.progress.seconds + time.monotonic() - began
    # Not what the optimizer holds: a run that goes on after an epoch's last step has not set it.
    rate = rate_at(state, plan, epoch + 1 - 1 / data.steps_per_epoch)
    state.plateau.saw(plan.train, validated.top1)
    state.epoch, state.progress = epoch + 1, Progress()
    state.metrics = _metrics(state, plan, rate, trained, validated, seconds)
    improved = plan.compression.at_target(epoch) and validated.top1 > state.best_top1
    if improved:
        state.best_top1, state.best_epoch = validated.top1, epoch
    # Recorded first: a stop before the checkpoint repeats the epoch and its record, whereas a
    # checkpoint without a record would leave a hole in the log.
    saver.record(state, (epoch + 1) * data.steps_per_epoch)
    saver.save_epoch(state, improved)
    print(_line(plan, state.metrics), flush=True)


def _reestimate(
    state: State, plan: TrainingPlan, data: Data, epoch: int, stop: StopRequest
) -> None:
    """Compute the statistics of normalization anew, if asked for, over the batches of an epoch on.

    They are the batches that training takes next, without what mixes images.
    """
    if not plan.train.reestimate_batches:
        return
    place, order = device_of(state.model), memory_order(plan.train.channels_last)

    def forward(batch: Batch) -> None:
        state.model(in_order(batch[0].to(place), order))

    batches = (batch for number in itertools.count(epoch) for batch in data.train(number))
    alone = not distributed.is_several()
    state.compression.reestimate_(stop.watch(batches) if alone else batches, forward=forward)


def validate(state: State, plan: TrainingPlan, data: Data, stop: StopRequest) -> Accuracy:
    """Evaluate the network that a user of the checkpoint gets: the average, where there is one."""
    # Processes have different numbers of validation batches, between which they cannot meet.
    alone = not distributed.is_several()
    validation = data.validation()
    with state.compression.average.in_place(state.model):
        watched = stop.watch(validation) if alone else validation
        name = f"{plan.stage} epoch {state.epoch + 1}, validation: {type(state.model).__name__}"
        order = plan.train.channels_last
        return evaluate(state.model, watched, channels_last=order, name=name)


def _rates(train: TrainSection, rate: float) -> dict[str, float]:
    """Return the rate of the weights, and that of learned steps where they have their own."""
    own = {} if train.step_lr is None else {"step_lr": rate * train.step_lr / train.lr}
    return {"lr": rate, **own}


def _metrics(
    state: State,
    plan: TrainingPlan,
    rate: float,
    trained: Accuracy,
    validated: Accuracy,
    seconds: float,
) -> dict[str, Any]:
    epoch = state.epoch - 1
    return {
        "epoch": epoch,
        **_rates(plan.train, rate),
        "train_loss": trained.loss,
        "train_top1": trained.top1,
        "validation_loss": validated.loss,
        "validation_top1": validated.top1,
        "validation_top5": validated.top5,
        "sparsity": prune.shown_sparsity(state.model, state.compression.masks.bits),
        "at_target": plan.compression.at_target(epoch),
        **epoch_facts(state.compression),
        "seconds": seconds,
        "images_per_second": trained.total / seconds,
    }


def _line(plan: TrainingPlan, metrics: Mapping[str, Any]) -> str:
    return (
        f"{plan.stage} epoch {metrics['epoch'] + 1}/{plan.train.epochs}: "
        f"loss {metrics['train_loss']:.4f}, train top-1 {metrics['train_top1']:.2f}, "
        f"validation top-1 {metrics['validation_top1']:.2f}, "
        f"sparsity {100 * metrics['sparsity']:.1f} %, {_of_some_recipes(metrics)}"
        f"lr {metrics['lr']:.2g}, {metrics['seconds']:.1f} s"
    )


def _of_some_recipes(metrics: Mapping[str, Any]) -> str:
    """Return the start of a line's end that only some recipes have."""
    parts = []
    if metrics.get("weight_bits") is not None:
        parts.append(f"{metrics['weight_bits']:.3g}-bit weights")
    if metrics.get("input_bits") is not None:
        parts.append(f"{metrics['input_bits']:.3g}-bit inputs")
    if "oscillating" in metrics:
        parts.append(f"{metrics['oscillating']} oscillating and {metrics['frozen']} frozen weights")
    return "".join(f"{part}, " for part in parts)
