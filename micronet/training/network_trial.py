"""Trying a network on a few images of a run before anything of the run is done or written.

A network of a user's own can raise anything and return anything. What a run will ask of it is
asked once at the start, in the modes and memory order that the run uses, and leaves no trace.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet.compression.distillation import Teacher
from micronet.compression.features import Features
from micronet.compression.reestimation import trained_norms
from micronet.models.failures import failures_of, logits_of
from micronet.models.unchanged import unchanged
from micronet.quantization import quantize
from micronet.quantization.images.inputs import watch_inputs
from micronet.recipe.yaml_source import line_of
from micronet.training.optimizer import (
    autocast,
    device,
    device_of,
    in_order,
    memory_order,
    to_device,
)
from micronet.training.trial import Trial
from micronet.utils import distributed
from micronet.utils.errors import UserError

# A network that skips layers at random sees them all in so many passes, almost surely.
_PASSES = 8


def check(
    model: nn.Module, trial: Trial, *, channels_last: bool, teacher: Teacher | None = None
) -> bool:
    """Move a network to its device, in a memory order that it takes, and try it there.

    Args:
        model: changed in nothing but its place.
        trial: what it is asked.
        channels_last: the order that the run wants.
        teacher: tried with it, where there is one.

    Returns:
        The order that it takes: it may want contiguous images where channels last was wanted.

    Raises:
        UserError: it does not do what the run asks.
    """
    try:
        notes = _attempt(model, trial, channels_last, teacher)
    except UserError as error:
        if not channels_last:
            raise
        # What fails once more is no matter of the order.
        notes = _attempt(model, trial, False, teacher)
        order = "gets contiguous images, as with --no-channels-last: channels last,"
        notes.append(f"{trial.name} {order} {error}")
        channels_last = False
    for note in notes:
        print(f"note: {note}", flush=True)
    return channels_last


def _attempt(
    model: nn.Module, trial: Trial, channels_last: bool, teacher: Teacher | None
) -> list[str]:
    """Try everything in one memory order; return what is worth a note."""
    order, notes = memory_order(channels_last), []
    if trial.trained:
        _check_trainable(model, trial.name)
    networks = {trial.name: model}
    if teacher is not None:
        networks[_of_teacher(trial)] = teacher.model
    for name, network in networks.items():
        with failures_of(f"{name} cannot be moved to {device()}, {order}"):
            to_device(network, channels_last=channels_last)
    with unchanged(model):
        if trial.trained:
            notes = _unreached(model, trial.name, _try_training(model, trial, order))
        if trial.reestimates and not trained_norms(model):
            key = "train.reestimate_batches"
            problem = f"is of no use: {trial.name} trains the statistics of no normalization"
            raise UserError(f"{line_of(trial.path, key)}: {key} {problem}")
        _try_evaluation(model, trial, order)
    if trial.bits:
        with unchanged(model):
            _try_quantized(model, trial, order)
    if teacher is not None:
        _check_finite(teacher.model, _of_teacher(trial))
        taught = dataclasses.replace(trial, name=_of_teacher(trial), evaluated=trial.trained)
        with unchanged(teacher.model):
            _try_evaluation(teacher.model, taught, order)
            _try_features(model, teacher.model, taught, order)
    return notes


def _of_teacher(trial: Trial) -> str:
    return f"the teacher of {trial.name}"


def _check_trainable(model: nn.Module, name: str) -> None:
    """Hold a network to what can be trained and kept in a checkpoint."""
    with failures_of(f"{name} cannot be kept in a checkpoint"):
        state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise UserError(f"{name} keeps {key!r} ({kind}), but a checkpoint holds tensors alone")
    _check_finite(model, name)
    parameters = list(model.parameters())
    if not parameters:
        raise UserError(f"{name} has no parameters, so there is nothing to train")
    if not any(parameter.requires_grad for parameter in parameters):
        raise UserError(f"every parameter of {name} is frozen, so there is nothing to train")


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{name} has values in {key!r} that are not finite")


@torch.no_grad()
def _try_features(
    student: nn.Module, teacher: nn.Module, trial: Trial, order: torch.memory_format
) -> None:
    """Compare what the two networks compute, where that is distilled."""
    if trial.features is None:
        return
    with unchanged(student), Features(trial.features, student, teacher).watched() as features:
        student.train()
        for network in (student, teacher):
            _try_each(network, trial, trial.trained[-1:], order, trains=False)
        features.loss()


def _try_quantized(model: nn.Module, trial: Trial, order: torch.memory_format) -> None:
    """Try the network as it is to become."""
    quantize.convert_(model, trial.bits, trial.masks)
    watch_inputs(model)
    trial = dataclasses.replace(trial, name=f"{trial.name} with quantized layers")
    for _ in range(_PASSES):
        _try_training(model, trial, order)
        if not (uninitialized := quantize.uninitialized(model)):
            break
    else:
        layer = uninitialized[0].removesuffix(".input_quantizer")
        where = line_of(trial.path, "quantize")
        raise UserError(
            f"{where}: layer {layer!r} of {trial.name} is never called, so the range of its "
            "input cannot be known: set its activations to null in quantize.overrides"
        )
    _try_evaluation(model, trial, order)


def _try_training(model: nn.Module, trial: Trial, order: torch.memory_format) -> set[int]:
    """Take a step's gradient of each size; return the parameters, by identity, that have one."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_refuse_fatal_input)
    for parameter in model.parameters():
        parameter.grad = None
    try:
        _try_each(model, trial, trial.trained, order, trains=True)
    except UserError as error:
        if min(trial.trained) == 1 and _trains_on_two(model, trial, order):
            raise UserError(
                f"{error}; two images it does train on, but --batch-size and --accumulate make "
                "batches of one"
            ) from None
        raise
    return {id(p) for p in model.parameters() if p.grad is not None}


def _refuse_fatal_input(module: nn.GroupNorm, inputs: tuple[Tensor, ...]) -> None:
    """Stop before torch 2.11's backward pass ends the process, which it does for such an input."""
    x = inputs[0] if inputs else None
    if type(x) is not Tensor or x.dim() != 4 or x.requires_grad or x.device.type != "cpu":
        return
    # By its strides, which tell the order of images of one pixel too.
    rows = torch.empty(x.shape, device="meta").stride()
    if x.is_contiguous(memory_format=torch.channels_last) and x.stride() != rows:
        raise UserError("torch's GroupNorm has no gradient for images that lie channels last")


def _trains_on_two(model: nn.Module, trial: Trial, order: torch.memory_format) -> bool:
    try:
        _try_each(model, trial, (2,), order, trains=True)
    except UserError:
        return False
    return True


@torch.no_grad()
def _try_evaluation(model: nn.Module, trial: Trial, order: torch.memory_format) -> None:
    model.eval()
    _try_each(model, trial, trial.evaluated, order, trains=False)


def _try_each(
    model: nn.Module,
    trial: Trial,
    sizes: tuple[int, ...],
    order: torch.memory_format,
    *,
    trains: bool,
) -> None:
    own = device_of(model)
    for size in sizes:
        random = torch.Generator().manual_seed(size)
        images = torch.randn(size, *trial.shape, generator=random).to(own)
        images = in_order(images, order)
        with (
            failures_of(f"{trial.name} does not take an image of {trial.image}"),
            autocast(own, trial.amp if trains else "none"),
        ):
            output = model(images)
        logits = logits_of(output, size, trial.name, trial.classes)
        if trains:
            _backward(logits, trial)


def _backward(logits: Tensor, trial: Trial) -> None:
    labels = torch.arange(len(logits), device=logits.device) % trial.classes
    loss = F.cross_entropy(logits.float(), labels)
    if not loss.requires_grad:
        raise UserError(f"no parameter of {trial.name} has any effect on what it returns")
    with failures_of(f"{trial.name} has no gradient"):
        loss.backward()


def _unreached(model: nn.Module, name: str, reached: set[int]) -> list[str]:
    """Return a note on the modules that no gradient reaches, which would never be trained.

    Raises:
        UserError: several processes train, which wait for each other's gradients of them.
    """
    left = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in reached]
    modules = list(dict.fromkeys(parameter.rpartition(".")[0] for parameter in left))
    if not modules:
        return []
    note = f"no gradient reaches {', '.join(map(repr, modules))} of {name}"
    if distributed.is_several():
        raise UserError(f"{note}, so that several processes cannot train it")
    return [note]
