"""What stops a run whose step is not sound, as one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from micronet.models.unchanged import unchanged
from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.training.optimizer import autocast, device_of
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.steps.guard import StepGuard
from micronet.training.steps.step import Batch
from micronet.utils import distributed
from micronet.utils.errors import UserError


def step_error(
    guard: StepGuard,
    model: nn.Module,
    plan: TrainingPlan,
    where: StepLocation,
    batch: Callable[[], Batch],
) -> UserError:
    """Return what is wrong with the first step that was not sound.

    Args:
        guard: of the epoch, whose state is that before the step.
        model: that it trains.
        plan: of the stage.
        where: the step was taken.
        batch: makes the step's batch again.
    """
    wrong = _before_update(guard, plan.train.loss_limit)
    if wrong is None:
        key = "lr" if plan.train.step_lr is None else "step_lr"
        for what, value, must in guard.rejected_learned().faults():
            return UserError(
                f"{what} is {value} after {where}, but must stay {must}: a lower train.{key} may "
                f"help{where.last_good}"
            )
        return UserError(f"another process's step is not finite in {where}{where.last_good}")
    layers = _nonfinite_inputs(model, plan, batch) or guard.rejected_ranges()
    first = f"; the input of layer {layers[0]!r} is the first that is not finite" if layers else ""
    return UserError(f"{wrong} in {where}{first}{where.last_good}")


def _before_update(guard: StepGuard, loss_limit: float) -> str | None:
    """Return what was wrong before the update, None where nothing of this process was."""
    (loss,) = guard.evidence("loss").tolist()
    if not loss <= loss_limit:
        return f"the loss is {loss}"
    (norm,) = guard.evidence("norm").tolist() or [0.0]
    if not math.isfinite(norm):
        return f"the gradient norm is {norm}"
    return "an activation range is not finite" if guard.rejected_ranges() else None


def _nonfinite_inputs(
    model: nn.Module, plan: TrainingPlan, batch: Callable[[], Batch]
) -> list[str]:
    """Return the quantized layers whose input is not finite, in execution order.

    Runs the step's forward pass once more. Several processes, which may learn of the failure after
    different steps, cannot meet in it.
    """
    if distributed.is_several() or not any(True for _ in quantized_layers(model)):
        return []
    device = device_of(model)
    with unchanged(model), autocast(device, plan.train.amp):
        for part in batch().parts(plan, device):
            if layers := quantize.nonfinite_inputs(model, part.images):
                return layers
    return []
