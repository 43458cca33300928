"""The training loop: one loop for fitting, pruning and quantization-aware training."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from micronet.data.augmentation import mixed
from micronet.data.batches import mix
from micronet.data.datasets import Data
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.training.checkpoint_saver import CheckpointSaver
from micronet.training.distillation import Teacher
from micronet.training.ema import ModelEma
from micronet.training.evaluation import Accuracy, evaluate
from micronet.training.optimizer import (
    add_steps,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import Progress, State
from micronet.training.step import backward, check_steps
from micronet.utils import distributed
from micronet.utils.errors import UserError
from micronet.utils.progress import Running, track


def start(model: nn.Module, plan: TrainingPlan, masks: prune.Masks) -> State:
    """Return the state before the first epoch."""
    average = ModelEma(plan.train.model_ema)
    optimizer = make_optimizer(model, plan.train)
    compiled = cast(nn.Module, torch.compile(model)) if plan.train.compile else None
    return State(model, optimizer, masks, average=average, compiled=compiled)


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
    if state.progress.step == 0:
        begin_epoch(state, plan, epoch)
    taught_by = teacher if plan.distills(epoch) else None
    trained = train_epoch(state, plan, data, epoch, taught_by, saver, stop)
    began = time.monotonic()
    validated = validate(state, plan, data, stop)
    if not math.isfinite(validated.loss):
        after = f"after {plan.stage} epoch {epoch + 1}"
        raise UserError(f"the validation loss is {validated.loss} {after}{saver.last_good()}")
    seconds = state.progress.seconds + time.monotonic() - began
    # Not what the optimizer holds: a run that goes on after an epoch's last step has not set it.
    rate = _rate(state, plan, epoch + 1 - 1 / data.steps_per_epoch)
    state.plateau.saw(plan.train, validated.top1)
    state.epoch, state.progress = epoch + 1, Progress()
    state.metrics = _metrics(state, plan, rate, trained, validated, seconds)
    improved = plan.at_target(epoch) and validated.top1 > state.best_top1
    if improved:
        state.best_top1, state.best_epoch = validated.top1, epoch
    # Recorded first: a stop before the checkpoint repeats the epoch and its record, whereas a
    # checkpoint without a record would leave a hole in the log.
    saver.record(state, (epoch + 1) * data.steps_per_epoch)
    saver.save_epoch(state, improved)
    print(_line(plan, state.metrics), flush=True)


def validate(state: State, plan: TrainingPlan, data: Data, stop: StopRequest) -> Accuracy:
    """Evaluate the network that a user of the checkpoint gets: the average, where there is one."""
    distributed.average_statistics(state.model)
    state.average.agree()
    # Processes have different numbers of validation batches, between which they cannot meet.
    alone = not distributed.is_several()
    validation = data.validation()
    with state.average.in_place(state.model):
        watched = stop.watch(validation) if alone else validation
        name = f"{plan.stage} epoch {state.epoch + 1}, validation: {type(state.model).__name__}"
        order = plan.train.channels_last
        return evaluate(state.model, watched, channels_last=order, name=name)


def begin_epoch(state: State, plan: TrainingPlan, epoch: int) -> None:
    """Choose masks and put quantized layers in place where the recipe says so."""
    if plan.prune is not None:
        state.masks.update(state.model, plan.prune, plan.prune_groups, epoch)
        state.average.prune(state.masks)
    if plan.bits and not state.bits and epoch >= plan.quantize_from:
        quantize.convert_(state.model, plan.bits, state.masks.bits)
        add_steps(state.optimizer, state.model)
        state.bits = dict(plan.bits)
    quantize.share_masks(state.model, state.masks.bits)


def train_epoch(
    state: State,
    plan: TrainingPlan,
    data: Data,
    epoch: int,
    teacher: Teacher | None,
    saver: CheckpointSaver,
    stop: StopRequest,
) -> Accuracy:
    """Take one optimizer step per batch; return the accuracy on the training batches.

    Goes on after ``state.progress.step`` batches of the epoch.

    Raises:
        UserError: as ``train``.
        Stopped: as ``train``.
    """
    state.model.train()
    steps, done = data.steps_per_epoch, state.progress
    learned = quantize.learned_steps(state.model)
    label = f"{plan.stage} epoch {epoch + 1}/{plan.train.epochs}"
    began, before = time.monotonic(), done.seconds
    batches = data.train(epoch, done.step)
    wrapped = distributed.wrap(state.model if state.compiled is None else state.compiled)
    sparsity = prune.shown_sparsity(state.model, state.masks.bits)
    now = functools.partial(_running, state, plan, data, sparsity)
    shown = track(batches, steps - done.step, label, now) if distributed.is_first() else batches
    for images, labels in stop.watch(shown):
        seed = mix(plan.train.seed, epoch, done.step, distributed.rank())
        torch.manual_seed(seed)
        shares = None
        if plan.augment is not None:
            images, shares = mixed(images, labels, data.num_classes, plan.augment, seed)
        rate = _rate(state, plan, epoch + done.step / steps)
        set_learning_rate(state.optimizer, rate)
        where = StepLocation(plan.stage, epoch, done.step, saver.last_good())
        batch = images, labels, labels if shares is None else shares
        loss, correct = backward(state, wrapped, plan, batch, teacher, where)
        clip_gradients(state.model, plan.train)
        state.optimizer.step()
        check_steps(learned, where)
        state.masks.apply_(state.model)
        done.step += 1
        state.average.update(state.model, epoch * steps + done.step)
        hits, count, loss_sum = distributed.sums(correct, len(labels), loss * len(labels))
        done.add(hits, count, loss_sum, before + time.monotonic() - began)
        saver.step(epoch * steps + done.step, loss_sum / count, rate)
        if saver.is_due(done.step):
            saver.save_last(state)
    return Accuracy(done.correct, done.correct, done.total, 0, done.loss_sum / max(done.total, 1))


def _running(state: State, plan: TrainingPlan, data: Data, sparsity: float) -> Running | None:
    """Return what the epoch so far looks like, or None before its first step."""
    done = state.progress
    if not done.step:
        return None
    left = data.steps_per_epoch * (plan.train.epochs - state.epoch) - done.step
    return Running(
        loss=done.loss_sum / done.total,
        top1=100.0 * done.correct / done.total,
        sparsity=sparsity,
        images_per_second=done.total / done.seconds,
        seconds_left=left * done.seconds / done.step,
    )


def _rate(state: State, plan: TrainingPlan, progress: float) -> float:
    scaled = state.plateau.scale * learning_rate(plan.train, progress)
    return max(scaled, plan.train.lr_min)


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
        "lr": rate,
        "train_loss": trained.loss,
        "train_top1": trained.top1,
        "validation_loss": validated.loss,
        "validation_top1": validated.top1,
        "validation_top5": validated.top5,
        "sparsity": prune.shown_sparsity(state.model, state.masks.bits),
        "at_target": plan.at_target(epoch),
        "seconds": seconds,
        "images_per_second": trained.total / seconds,
    }


def _line(plan: TrainingPlan, metrics: Mapping[str, Any]) -> str:
    return (
        f"{plan.stage} epoch {metrics['epoch'] + 1}/{plan.train.epochs}: "
        f"loss {metrics['train_loss']:.4f}, train top-1 {metrics['train_top1']:.2f}, "
        f"validation top-1 {metrics['validation_top1']:.2f}, "
        f"sparsity {100 * metrics['sparsity']:.1f} %, lr {metrics['lr']:.2g}, "
        f"{metrics['seconds']:.1f} s"
    )
