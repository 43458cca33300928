"""One optimizer step's loss and gradient, and what stops a run before they do harm."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from micronet.models.failures import failures_of, logits_of
from micronet.quantization import quantize
from micronet.training.distillation import Teacher, distillation_loss
from micronet.training.optimizer import autocast, device_of, in_order, memory_order
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.state import State
from micronet.utils import distributed
from micronet.utils.errors import UserError


def backward(
    state: State,
    wrapped: nn.Module,
    plan: TrainingPlan,
    batch: tuple[Tensor, Tensor, Tensor],
    teacher: Teacher | None,
    where: StepLocation,
) -> tuple[float, int]:
    """Leave a batch's mean gradient in the parameters; return its mean loss and hits.

    Args:
        state: of the run.
        wrapped: the state's model, which with several processes meets them on the way back.
        plan: of the stage.
        batch: images, their labels, and what is learned: these, or shares of mixed classes.
        teacher: distils where given.
        where: for messages.
    """
    device = device_of(state.model)
    state.optimizer.zero_grad(set_to_none=True)
    labels, name = batch[1], type(state.model).__name__
    size = -(-len(labels) // plan.train.accumulate)
    loss_sum, correct = 0.0, 0
    parts = list(zip(*(tensor.split(size) for tensor in batch), strict=True))
    for number, (part, *wanted) in enumerate(parts, 1):
        part = in_order(part.to(device), memory_order(plan.train.channels_last))
        hard, learned = (labels_of.to(device) for labels_of in wanted)
        share = len(hard) / len(labels)
        meets = functools.partial(distributed.no_sync, wrapped, last=number == len(parts))
        with failures_of(f"{name} failed in {where}", where.last_good):
            with meets(), autocast(device, plan.train.amp):
                logits = logits_of(wrapped(part), len(part), f"{where}: {name}")
            taught = _taught(teacher, part, where) if teacher else None
            loss = _loss(plan, logits.float(), learned, taught)
            value = float(loss.detach())
            if not value <= plan.train.loss_limit:
                raise _nonfinite_loss(value, state, part, where)
            with meets():
                (loss * share if share < 1 else loss).backward()
        loss_sum += value * len(hard)
        correct += int((logits.detach().argmax(dim=1) == hard).sum())
    return loss_sum / len(labels), correct


def _taught(teacher: Teacher, images: Tensor, where: StepLocation) -> Tensor:
    return logits_of(teacher(images), len(images), f"{where}: the teacher")


def _loss(plan: TrainingPlan, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    smoothing = plan.train.label_smoothing
    if taught is None or plan.distill is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return distillation_loss(
        logits,
        taught.float(),
        labels,
        temperature=plan.distill.temperature,
        student_weight=plan.distill.student_weight,
        distill_weight=plan.distill.distill_weight,
        label_smoothing=smoothing,
    )


def _nonfinite_loss(value: float, state: State, images: Tensor, where: StepLocation) -> UserError:
    """Return the error that stops a NaN, an infinity or an explosion before the weights see it."""
    layers = quantize.nonfinite_inputs(state.model, images) or quantize.nonfinite_ranges(
        state.model
    )
    first = f"; the input of layer {layers[0]!r} is the first that is not finite" if layers else ""
    return UserError(f"the loss is {value} in {where}{first}{where.last_good}")


def check_steps(steps: Mapping[str, nn.Parameter], where: StepLocation) -> None:
    """Stop before a step that rounds nothing is used or saved."""
    for owner, value in quantize.invalid_steps(steps).items():
        raise UserError(
            f"the learned step of {owner} is {value} after {where}, but must stay positive and "
            f"finite: a lower train.lr may help{where.last_good}"
        )
