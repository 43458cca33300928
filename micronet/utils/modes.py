"""Training and evaluation mode of a network's modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and give each module its own mode back afterwards.

    A part of a network that is trained may stay in evaluation mode, as batch normalization does
    whose statistics are frozen; ``model.train()`` would wake it.
    """
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
