"""The parameters of a network as an optimizer takes them: in groups, by what decays."""

from __future__ import annotations

from typing import Any

from torch import nn

from micronet.quantization import quantize


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
