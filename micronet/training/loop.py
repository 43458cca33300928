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
from micronet.training.checkpoint_saver import Keeper
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
from micronet.training.plan import Recipe, Where
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import Progress, State
from micronet.training.step import backward, check_steps
from micronet.utils import distributed
from micronet.utils.errors import UserError
from micronet.utils.progress import Running, track


def start(model: nn.Module, recipe: Recipe, masks: prune.Masks) -> State:
    """Return the state before the first epoch."""
    average = ModelEma(recipe.train.model_ema)
    optimizer = make_optimizer(model, recipe.train)
    compiled = cast(nn.Module, torch.compile(model)) if recipe.train.compile else None
    return State(model, optimizer, masks, average=average, compiled=compiled)


def train(
    state: State,
    recipe: Recipe,
    data: Data,
    keeper: Keeper,
    teacher: Teacher | None = None,
    stop: StopRequest | None = None,
) -> State:
    """Train from where ``state`` is to the recipe's last epoch, a checkpoint after each.

    Args:
        state: changed in place and returned.
        recipe: the stage.
        data: train and validation images.
        keeper: writes metrics and checkpoints.
        teacher: distils where given.
        stop: asked after every step and before every validation batch.

    Raises:
        UserError: the loss or an activation range stopped being finite, or a learned step positive.
        Stopped: ``stop`` was asked for; ``last`` holds everything up to the step before.
    """
    stop = stop or StopRequest()
    try:
        for epoch in range(state.epoch, recipe.train.epochs):
            _train_and_validate(state, recipe, data, epoch, keeper, teacher, stop)
    except Stopped:
        # All processes stop after the same step, so that the first one's state is everybody's.
        keeper.save_last(state)
        raise
    return state


def _train_and_validate(
    state: State,
    recipe: Recipe,
    data: Data,
    epoch: int,
    keeper: Keeper,
    teacher: Teacher | None,
    stop: StopRequest,
) -> None:
    if state.progress.step == 0:
        begin_epoch(state, recipe, epoch)
    taught_by = teacher if recipe.distills(epoch) else None
    trained = train_epoch(state, recipe, data, epoch, taught_by, keeper, stop)
    began = time.monotonic()
    validated = validate(state, recipe, data, stop)
    if not math.isfinite(validated.loss):
        after = f"after {recipe.stage} epoch {epoch + 1}"
        raise UserError(f"the validation loss is {validated.loss} {after}{keeper.last_good()}")
    seconds = state.progress.seconds + time.monotonic() - began
    # Not what the optimizer holds: a run that goes on after an epoch's last step has not set it.
    rate = _rate(state, recipe, epoch + 1 - 1 / data.steps_per_epoch)
    state.plateau.saw(recipe.train, validated.top1)
    state.epoch, state.progress = epoch + 1, Progress()
    state.metrics = _metrics(state, recipe, rate, trained, validated, seconds)
    improved = recipe.at_target(epoch) and validated.top1 > state.best_top1
    if improved:
        state.best_top1, state.best_epoch = validated.top1, epoch
    # Recorded first: a stop before the checkpoint repeats the epoch and its record, whereas a
    # checkpoint without a record would leave a hole in the log.
    keeper.record(state, (epoch + 1) * data.steps_per_epoch)
    keeper.save_epoch(state, improved)
    print(_line(recipe, state.metrics), flush=True)


def validate(state: State, recipe: Recipe, data: Data, stop: StopRequest) -> Accuracy:
    """Evaluate the network that a user of the checkpoint gets: the average, where there is one."""
    distributed.average_statistics(state.model)
    state.average.agree()
    # Processes have different numbers of validation batches, between which they cannot meet.
    alone = not distributed.is_several()
    validation = data.validation()
    with state.average.in_place(state.model):
        watched = stop.watch(validation) if alone else validation
        name = f"{recipe.stage} epoch {state.epoch + 1}, validation: {type(state.model).__name__}"
        order = recipe.train.channels_last
        return evaluate(state.model, watched, channels_last=order, name=name)


def begin_epoch(state: State, recipe: Recipe, epoch: int) -> None:
    """Choose masks and put quantized layers in place where the recipe says so."""
    if recipe.prune is not None:
        state.masks.update(state.model, recipe.prune, recipe.prune_groups, epoch)
        state.average.prune(state.masks)
    if recipe.bits and not state.bits and epoch >= recipe.quantize_from:
        quantize.convert_(state.model, recipe.bits, state.masks.bits)
        add_steps(state.optimizer, state.model)
        state.bits = dict(recipe.bits)
    quantize.share_masks(state.model, state.masks.bits)


def train_epoch(
    state: State,
    recipe: Recipe,
    data: Data,
    epoch: int,
    teacher: Teacher | None,
    keeper: Keeper,
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
    label = f"{recipe.stage} epoch {epoch + 1}/{recipe.train.epochs}"
    began, before = time.monotonic(), done.seconds
    batches = data.train(epoch, done.step)
    wrapped = distributed.wrap(state.model if state.compiled is None else state.compiled)
    sparsity = prune.shown_sparsity(state.model, state.masks.bits)
    now = functools.partial(_running, state, recipe, data, sparsity)
    shown = track(batches, steps - done.step, label, now) if distributed.is_first() else batches
    for images, labels in stop.watch(shown):
        seed = mix(recipe.train.seed, epoch, done.step, distributed.rank())
        torch.manual_seed(seed)
        shares = None
        if recipe.augment is not None:
            images, shares = mixed(images, labels, data.num_classes, recipe.augment, seed)
        rate = _rate(state, recipe, epoch + done.step / steps)
        set_learning_rate(state.optimizer, rate)
        where = Where(recipe.stage, epoch, done.step, keeper.last_good())
        batch = images, labels, labels if shares is None else shares
        loss, correct = backward(state, wrapped, recipe, batch, teacher, where)
        clip_gradients(state.model, recipe.train)
        state.optimizer.step()
        check_steps(learned, where)
        state.masks.apply_(state.model)
        done.step += 1
        state.average.update(state.model, epoch * steps + done.step)
        hits, count, loss_sum = distributed.sums(correct, len(labels), loss * len(labels))
        done.add(hits, count, loss_sum, before + time.monotonic() - began)
        keeper.step(epoch * steps + done.step, loss_sum / count, rate)
        if keeper.is_due(done.step):
            keeper.save_last(state)
    return Accuracy(done.correct, done.correct, done.total, 0, done.loss_sum / max(done.total, 1))


def _running(state: State, recipe: Recipe, data: Data, sparsity: float) -> Running | None:
    """Return what the epoch so far looks like, or None before its first step."""
    done = state.progress
    if not done.step:
        return None
    left = data.steps_per_epoch * (recipe.train.epochs - state.epoch) - done.step
    return Running(
        loss=done.loss_sum / done.total,
        top1=100.0 * done.correct / done.total,
        sparsity=sparsity,
        images_per_second=done.total / done.seconds,
        seconds_left=left * done.seconds / done.step,
    )


def _rate(state: State, recipe: Recipe, progress: float) -> float:
    scaled = state.plateau.scale * learning_rate(recipe.train, progress)
    return max(scaled, recipe.train.lr_min)


def _metrics(
    state: State,
    recipe: Recipe,
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
        "at_target": recipe.at_target(epoch),
        "seconds": seconds,
        "images_per_second": trained.total / seconds,
    }


def _line(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    return (
        f"{recipe.stage} epoch {metrics['epoch'] + 1}/{recipe.train.epochs}: "
        f"loss {metrics['train_loss']:.4f}, train top-1 {metrics['train_top1']:.2f}, "
        f"validation top-1 {metrics['validation_top1']:.2f}, "
        f"sparsity {100 * metrics['sparsity']:.1f} %, lr {metrics['lr']:.2g}, "
        f"{metrics['seconds']:.1f} s"
    )
