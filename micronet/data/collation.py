"""Images of a batch put together, and what could not be read of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Broken:
    """Stands for an image that cannot be read: an exception would leave a worker as a traceback."""

    message: str


@dataclass(frozen=True)
class Read:
    """What of a batch could be read: pixels of the places ``kept``, and why the others not."""

    pixels: Tensor
    kept: list[int]
    broken: dict[int, str]


def collate(items: list[Tensor | Broken]) -> Read:
    """Return the images of a batch that could be read, together."""
    kept = [place for place, item in enumerate(items) if isinstance(item, Tensor)]
    broken = {p: item.message for p, item in enumerate(items) if isinstance(item, Broken)}
    images = [item for item in items if isinstance(item, Tensor)]
    return Read(torch.stack(images) if images else torch.empty(0), kept, broken)
