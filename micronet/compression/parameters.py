"""The parameters of a network as an optimizer takes them: in groups, by what decays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from micronet.quantization import quantize

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
    model: nn.Module, optimizer: torch.optim.Optimizer, schedulers: Iterable[Any] = ()
) -> None:
    """Let an optimizer train a network's learned steps, in a group that does not decay.

    Steps that it holds among other parameters move to a new group, which comes last and otherwise
    has the options of the one before it; a group of steps alone stays as it is.

    Args:
        model: the network.
        optimizer: made before the steps were there, or after.
        schedulers: schedules of torch that move the optimizer's learning rates.
    """
    steps = {id(step): step for step in quantize.learned_steps(model).values()}
    for group in optimizer.param_groups:
        others = [p for p in group["params"] if id(p) not in steps]
        if others:
            group["params"] = others
        else:
            for parameter in group["params"]:
                steps.pop(id(parameter), None)
    if steps:
        last = {k: v for k, v in optimizer.param_groups[-1].items() if k != "params"}
        optimizer.add_param_group({**last, "params": list(steps.values()), "weight_decay": 0.0})
        for scheduler in schedulers:
            _extend(scheduler, len(optimizer.param_groups))


def _extend(scheduler: Any, groups: int) -> None:
    """Let a schedule, and those it is made of, move as many groups, the new ones as the last."""
    # Accelerate's stands around one of torch's.
    scheduler = getattr(scheduler, "scheduler", scheduler)
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for name in _OF_GROUPS:
            values = getattr(part, name, None)
            if isinstance(values, list):
                values.extend(values[-1:] * (groups - len(values)))
