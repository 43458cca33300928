"""The optimizer of somebody else's loop: which one trains a network, and what follows its steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from micronet.compression.compression import Compression
from micronet.utils.errors import UserError


def optimizer_of(
    compression: Compression, optimizers: Iterable[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """Return the one of some optimizers that trains a network.

    Raises:
        UserError: none does, or several do.
    """
    own = {id(parameter) for parameter in compression.model.parameters()}
    found = [
        optimizer
        for optimizer in optimizers
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"])
    ]
    if len(found) != 1:
        name, number = type(compression.model).__name__, len(found) or "no"
        raise UserError(
            f"{number} optimizers train the compressed network {name}: it needs one, after whose "
            "steps pruned weights are made zero again"
        )
    return found[0]


def follow_steps(compression: Compression, optimizer: torch.optim.Optimizer) -> Any:
    """Call ``Compression.step`` after each step that an optimizer really takes.

    A step that a gradient scaler skips is none, and so are the parts of an accumulated batch.

    Returns:
        The hook's handle.
    """
    return optimizer.register_step_post_hook(lambda *_: compression.step())
