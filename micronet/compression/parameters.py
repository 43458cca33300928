"""The parameters of a network as an optimizer takes them: in groups, by what decays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from micronet.quantization import quantize
from micronet.utils.errors import UserError

# What a group of an optimizer holds parameter by parameter.
_BY_PARAMETER = ("params", "param_names")
# What schedules of torch keep for each group of an optimizer.
_OF_GROUPS = ("base_lrs", "max_lrs", "min_lrs", "lr_lambdas", "base_momentums", "max_momentums")


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: what decays, what does not, and learned steps last.

    A step never decays: that would pull it towards zero whatever the loss says.

    Args:
        model: the network.
        weight_decay: of the first group.
        decay_vectors: whether biases, the parameters of normalization and whatever else has one
            axis or none decay too; as in timm and torchvision's references they may stay apart.
    """
    steps = {id(step) for step in quantize.learned_steps(model).values()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if id(parameter) not in steps:
            decays = decay_vectors or parameter.dim() > 1
            (decayed if decays else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]] + step_group(model)


def step_group(model: nn.Module) -> list[dict[str, Any]]:
    """Return the group of a network's learned steps, in a list that is empty if it has none."""
    steps = list(quantize.learned_steps(model).values())
    return [{"params": steps, "weight_decay": 0.0}] if steps else []


def give_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedulers: Iterable[Any] | Any = ()
) -> None:
    """Let an optimizer train a network's learned steps, in a group that does not decay.

    Steps that it holds among other parameters move to a new group, which comes last and otherwise
    has the options of the one before it; a group of steps alone stays as it is.

    Args:
        model: the network.
        optimizer: made before the steps were there, or after.
        schedulers: schedules of torch that move the optimizer's learning rates, or one of them.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"this is no optimizer of torch: {optimizer!r}")
    steps = {id(step): step for step in quantize.learned_steps(model).values()}
    for group in optimizer.param_groups:
        others = [i for i, p in enumerate(group["params"]) if id(p) not in steps]
        if others:
            group.update({k: [group[k][i] for i in others] for k in _BY_PARAMETER if k in group})
        else:
            for parameter in group["params"]:
                steps.pop(id(parameter), None)
    if steps:
        _add_group(model, optimizer, list(steps.values()))
        several = isinstance(schedulers, Iterable)
        for scheduler in schedulers if several else (schedulers,):
            _extend(scheduler, len(optimizer.param_groups))


def _add_group(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: list[nn.Parameter]
) -> None:
    """Add a group with the options of the last one, under names where the optimizer has them."""
    last = optimizer.param_groups[-1]
    options = {k: v for k, v in last.items() if k not in _BY_PARAMETER} | {"weight_decay": 0.0}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    named = [(names[id(step)], step) for step in steps]
    optimizer.add_param_group({**options, "params": named if "param_names" in last else steps})
    if isinstance(optimizer, torch.optim.Adagrad):
        # It makes the state of its parameters when it is made, and of those alone.
        start = options["initial_accumulator_value"]
        fresh = torch.optim.Adagrad(
            [{**options, "params": steps}], initial_accumulator_value=start, fused=options["fused"]
        )
        optimizer.state.update(
            {step: fresh.state[step] for step in steps if not optimizer.state.get(step)}
        )


def _extend(scheduler: Any, groups: int) -> None:
    """Let a schedule, and those it is made of, move as many groups, the new ones as the last."""
    # Accelerate's stands around one of torch's.
    scheduler = getattr(scheduler, "scheduler", scheduler)
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for name in _OF_GROUPS:
            values = getattr(part, name, None)
            if isinstance(values, list):
                values.extend(values[-1:] * (groups - len(values)))
