"""The part of an image that a training step sees: where it lies, and how it is brought to size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """A part of an image in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    def of(self, planes: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
        """Return the part of ``planes`` uint8 (3, H, W), resized, as uint8 (size, size, 3)."""
        rows, columns = (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )
        part = planes[:, rows, columns]
        # Torch resizes bytes on the CPU alone.
        resize = resized_bytes if part.device.type == "cpu" else resized_floats
        resized = resize(part, size, interpolation)
        pixels = resized.permute(1, 2, 0)
        return pixels.flip(1) if self.mirrored else pixels


def resized_bytes(part: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Return ``part`` uint8 (3, H, W) as uint8 (3, size, size).

    Four times as fast as Pillow, and within one of its values.
    """
    return F.interpolate(part[None], (size, size), mode=interpolation, antialias=True)[0]


def resized_floats(part: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Return ``part`` uint8 (3, H, W) as uint8 (3, size, size), by way of float32."""
    wide = F.interpolate(part[None].float(), (size, size), mode=interpolation, antialias=True)[0]
    # Bicubic weights may be negative, so that their sums leave the range of a byte.
    return wide.round_().clamp_(0, 255).to(torch.uint8)


def drawn(rows: int, columns: int, random: torch.Generator) -> Window:
    """Draw a window of an image of so many rows and columns.

    Source: Szegedy et al. 2015, as torchvision's RandomResizedCrop draws it: 8 to 100 % of the
    area, an aspect ratio of 3/4 to 4/3, and after ten misfits the largest part in the middle.
    """
    draws = torch.rand(11, 2, generator=random, dtype=torch.float64).tolist()
    (across, down), *attempts = draws
    mirrored = bool(torch.randint(2, (), generator=random))
    for area, ratio in attempts:
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        target = (0.08 + 0.92 * area) * rows * columns
        width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < width <= columns and 0 < height <= rows:
            top, left = int(down * (rows - height + 1)), int(across * (columns - width + 1))
            return Window(top, left, height, width, mirrored)
    height = min(rows, max(1, round(columns * 4 / 3)))
    width = min(columns, max(1, round(rows * 4 / 3)))
    return Window((rows - height) // 2, (columns - width) // 2, height, width, mirrored)
