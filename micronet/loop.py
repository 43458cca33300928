"""The training loop: one loop for fitting, pruning and quantisation-aware training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet import checkpoint, prune, quantize
from micronet.config import DistillSection, PruneGroup, PruneSection, TrainSection
from micronet.data import Data
from micronet.distill import Teacher, distillation_loss
from micronet.errors import UserError
from micronet.evaluate import Accuracy, evaluate
from micronet.optimise import add_steps, learning_rate, make_optimizer, set_learning_rate
from micronet.progress import track
from micronet.quantize import LayerBits
from micronet.runs import RunDirectory


@dataclass(frozen=True)
class Recipe:
    """What a stage does, with every name already held to the network."""

    stage: str
    train: TrainSection
    prune: PruneSection | None = None
    prune_groups: Mapping[str, PruneGroup] = field(default_factory=dict)
    quantize_from: int = 0
    bits: Mapping[str, LayerBits] = field(default_factory=dict)
    distill: DistillSection | None = None

    def at_target(self, epoch: int) -> bool:
        """Whether an epoch trains the network at its final sparsity and precision."""
        pruned = self.prune is None or epoch >= prune.firing_epochs(self.prune)[-1]
        return pruned and (not self.bits or epoch >= self.quantize_from)


@dataclass
class State:
    """Everything that a checkpoint keeps."""

    model: nn.Module
    optimizer: torch.optim.SGD
    masks: prune.Masks
    bits: dict[str, LayerBits] = field(default_factory=dict)
    epoch: int = 0
    best_top1: float = -1.0
    best_epoch: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)


def start(model: nn.Module, recipe: Recipe, masks: prune.Masks) -> State:
    """Return the state before the first epoch."""
    return State(model, make_optimizer(model, recipe.train), masks)


def train(
    state: State,
    recipe: Recipe,
    data: Data,
    run: RunDirectory,
    meta: Mapping[str, Any],
    teacher: Teacher | None = None,
) -> State:
    """Train from ``state.epoch`` to the recipe's last epoch, a checkpoint after each.

    Args:
        state: changed in place and returned.
        recipe: the stage.
        data: train and validation images.
        run: where metrics and checkpoints go.
        meta: what the checkpoints' headers say of the network and its data.
        teacher: distils where given.

    Raises:
        UserError: the loss or an activation range stopped being finite, or a learned step positive.
    """
    for epoch in range(state.epoch, recipe.train.epochs):
        began = time.monotonic()
        begin_epoch(state, recipe, epoch)
        trained = train_epoch(state, recipe, data, epoch, teacher, run)
        validated = evaluate(state.model, data.validation())
        seconds = time.monotonic() - began
        state.epoch = epoch + 1
        state.metrics = _metrics(state, recipe, epoch, trained, validated, seconds)
        # Recorded first: a stop before the checkpoint repeats the epoch and its record, whereas a
        # checkpoint without a record would leave a hole in the log.
        run.record(state.metrics)
        _keep(state, recipe, run, meta, epoch, validated)
        print(_line(recipe, state.metrics), flush=True)
    return state


def begin_epoch(state: State, recipe: Recipe, epoch: int) -> None:
    """Choose masks and put quantised layers in place where the recipe says so."""
    if recipe.prune is not None and epoch in prune.firing_epochs(recipe.prune):
        state.masks.update(state.model, recipe.prune, recipe.prune_groups, epoch)
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
    run: RunDirectory,
) -> Accuracy:
    """Take one optimiser step per batch; return the accuracy on the training batches."""
    state.model.train()
    device = next(state.model.parameters()).device
    steps = data.steps_per_epoch
    learned = quantize.learned_steps(state.model)
    label = f"{recipe.stage} epoch {epoch + 1}/{recipe.train.epochs}"
    correct = total = 0
    loss_sum = 0.0
    for step, (images, labels) in enumerate(track(data.train(epoch), steps, label)):
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        labels = labels.to(device)
        set_learning_rate(state.optimizer, learning_rate(recipe.train, epoch + step / steps))
        logits = state.model(images)
        loss = _loss(recipe, logits, labels, teacher(images) if teacher else None)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _not_finite(value, state, images, _when(recipe, epoch, step), run)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        _check_steps(learned, _when(recipe, epoch, step), run)
        state.masks.apply_(state.model)
        loss_sum += value * len(labels)
        correct += int((logits.detach().argmax(dim=1) == labels).sum())
        total += len(labels)
    return Accuracy(correct, correct, total, 0, loss_sum / max(total, 1))


def _loss(recipe: Recipe, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    smoothing = recipe.train.label_smoothing
    if taught is None or recipe.distill is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return distillation_loss(
        logits,
        taught,
        labels,
        temperature=recipe.distill.temperature,
        student_weight=recipe.distill.student_weight,
        label_smoothing=smoothing,
    )


def _not_finite(
    value: float, state: State, images: Tensor, when: str, run: RunDirectory
) -> UserError:
    """Return the error that stops a NaN or an infinity before it reaches the weights."""
    layers = quantize.broken_inputs(state.model, images) or quantize.broken_ranges(state.model)
    where = f"; the input of layer {layers[0]!r} is the first that is not finite" if layers else ""
    return UserError(f"the loss is {value} in {when}{where}{_last_good(run)}")


def _check_steps(steps: Mapping[str, nn.Parameter], when: str, run: RunDirectory) -> None:
    """Stop before a step that rounds nothing is used or saved."""
    for owner, value in quantize.broken_steps(steps).items():
        raise UserError(
            f"the learned step of {owner} is {value} after {when}, but must stay positive and "
            f"finite: a lower train.lr may help{_last_good(run)}"
        )


def _when(recipe: Recipe, epoch: int, step: int) -> str:
    return f"{recipe.stage} epoch {epoch + 1}, step {step + 1}"


def _last_good(run: RunDirectory) -> str:
    return f"; the last good checkpoint is {str(run.last)!r}" if run.last.exists() else ""


def _metrics(
    state: State,
    recipe: Recipe,
    epoch: int,
    trained: Accuracy,
    validated: Accuracy,
    seconds: float,
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "lr": state.optimizer.param_groups[0]["lr"],
        "train_loss": trained.loss,
        "train_top1": trained.top1,
        "validation_loss": validated.loss,
        "validation_top1": validated.top1,
        "validation_top5": validated.top5,
        "sparsity": prune.convolution_sparsity(state.model),
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


def _keep(
    state: State,
    recipe: Recipe,
    run: RunDirectory,
    meta: Mapping[str, Any],
    epoch: int,
    validated: Accuracy,
) -> None:
    """Write ``last``, and ``best`` where validation top-1 rose among the epochs at the target."""
    improved = recipe.at_target(epoch) and validated.top1 > state.best_top1
    if improved:
        state.best_top1, state.best_epoch = validated.top1, epoch
    tensors, header = _pack(state, meta)
    if improved:
        checkpoint.save(run.best, tensors, header)
    # Last comes last: a stop between the two repeats this epoch and writes the same best again.
    checkpoint.save(run.last, tensors, header)


def _pack(state: State, meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"model/{key}": value for key, value in state.model.state_dict().items()}
    tensors.update({f"mask/{key}": value for key, value in state.masks.bits.items()})
    for name, parameter in state.model.named_parameters():
        momentum = state.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum/{name}"] = momentum
    tensors.update(checkpoint.rng_state())
    header = {
        **meta,
        "bits": quantize.bits_to_dict(state.bits),
        "epoch": state.epoch,
        "best_top1": state.best_top1,
        "best_epoch": state.best_epoch,
        "metrics": state.metrics,
    }
    return tensors, header


def unpack(state: State, found: checkpoint.Checkpoint) -> State:
    """Continue from a checkpoint whose model tensors and masks ``state`` already has."""
    state.epoch = found.meta["epoch"]
    state.best_top1, state.best_epoch = found.meta["best_top1"], found.meta["best_epoch"]
    momentum = found.group("momentum")
    for name, parameter in state.model.named_parameters():
        if name in momentum:
            # Same strides as the parameter, or the next step would round in another order.
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            state.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
    checkpoint.set_rng_state(found.group("rng"))
    return state
