"""Images of a batch put together, and what could not be read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from micronet.data.windows import Window


@dataclass(frozen=True)
class Broken:
    """Stands for an image that cannot be read: an exception would leave a worker as a traceback."""

    message: str


@dataclass(frozen=True)
class Encoded:
    """An image that is still the bytes of its file, uint8 (bytes,), and the part that is wanted."""

    content: Tensor
    window: Window


@dataclass(frozen=True)
class Read:
    """What of a batch could be read: pixels of the places ``kept``, and why ``broken`` ones not.

    Other places are ``encoded``: their windows, and lengths within ``content``, where the bytes of
    all of them follow each other. One tensor leaves a worker by one file descriptor.
    """

    pixels: Tensor
    kept: list[int]
    broken: Mapping[int, str]
    content: Tensor
    encoded: Mapping[int, tuple[int, Window]]


def collate(items: Sequence[Tensor | Broken | Encoded]) -> Read:
    """Return the images of a batch that could be read, together."""
    kept = [place for place, item in enumerate(items) if isinstance(item, Tensor)]
    broken = {p: item.message for p, item in enumerate(items) if isinstance(item, Broken)}
    encoded = {
        p: (len(item.content), item.window)
        for p, item in enumerate(items)
        if isinstance(item, Encoded)
    }
    images = [item for item in items if isinstance(item, Tensor)]
    contents = [item.content for item in items if isinstance(item, Encoded)]
    pixels = torch.stack(images) if images else torch.empty(0)
    return Read(pixels, kept, broken, torch.cat(contents) if contents else pixels[:0], encoded)
