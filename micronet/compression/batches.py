"""Batches as a loop has them: images, tuples that begin with them, or dicts of keywords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from micronet.utils.errors import UserError


def called(model: nn.Module, batch: Any) -> object:
    """Call a network with a batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def check_several(batches: object, who: str) -> None:
    """Hold batches to being several, of which one tensor's rows would be.

    Raises:
        UserError: they are one tensor.
    """
    if isinstance(batches, Tensor):
        raise UserError(f"{who} takes batches, as in [images], not one tensor")
