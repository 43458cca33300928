"""Batches of images: out of memory for small ones, out of files for large ones.

Every random choice is a function of (seed, epoch, sample) alone: it depends neither on the
batch size, nor on the number of workers, nor on torch's global generator, which stays untouched.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from micronet.data.augmentation import Policy, drawing_from
from micronet.data.collation import Broken, collate
from micronet.data.image_files import decode_pixels
from micronet.data.preprocessing import (
    CIFAR_STATISTICS,
    IMAGENET_STATISTICS,
    Preprocessing,
    Statistics,
)
from micronet.data.transfer import Batch, has_room, sent_ahead
from micronet.utils.errors import UserError


class Images(Protocol):
    """Labeled images, served in any order."""

    labels: Tensor
    policy: Policy | None

    def batches(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield (images float32 (N, 3, H, W) normalized, labels int64 (N,)) per index tensor.

        ``augment`` is (seed, epoch), or None for the images as they are.
        """

    def on(self, device: torch.device) -> Images:
        """Return the same images, whose batches come on a device."""


def generator(*key: int) -> torch.Generator:
    """Return a generator of its own stream for each ``key`` of non-negative numbers."""
    return torch.Generator().manual_seed(mix(*key))


def mix(*key: int) -> int:
    """Return a seed that differs between keys of non-negative numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _normalize(pixels: Tensor, statistics: Statistics) -> Tensor:
    """Turn ``pixels`` (N, 3, H, W) in [0, 255] to float32 of mean 0 and deviation 1."""
    mean, deviation = _moments(statistics, pixels.device)
    return pixels.float().sub_(mean).div_(deviation)


@functools.cache
def _moments(statistics: Statistics, device: torch.device) -> list[Tensor]:
    """Return mean and deviation of pixels in [0, 255], (3, 1, 1) each, on a device for good."""
    return [(255.0 * torch.tensor(row).view(3, 1, 1)).to(device) for row in statistics]


def _moved_together(order: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Return an epoch's indices on a device, by one copy."""
    if device.type == "cpu" or not order:
        return order
    return torch.cat(list(order)).to(device).split([len(index) for index in order])


class MemoryImages:
    """Small square images, kept decoded: uint8 (N, H, H, 3).

    Training crops a window of the image's size out of it padded with an eighth of black (4 pixels
    of 32) and, with ``flip``, mirrors every second one (He et al. 2016, section 4.2).
    ``preprocessing`` gives mean and deviation in place of CIFAR-10's.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        image_size: int,
        *,
        flip: bool,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.pixels, self.labels = pixels, labels
        self.image_size, self.flip = image_size, flip
        self.statistics = preprocessing.statistics if preprocessing else CIFAR_STATISTICS
        self.policy: Policy | None = None
        self.device = torch.device("cpu")

    def on(self, device: torch.device) -> MemoryImages:
        """Return the same images, whose batches come on a device.

        They stay there whole where there is room, unless a policy changes them one by one, which
        the CPU does.
        """
        moved = copy.copy(self)
        moved.device = device
        if self.policy is None and has_room(device, self.pixels.nbytes):
            moved.pixels, moved.labels = self.pixels.to(device), self.labels.to(device)
        return moved

    def batches(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield a batch per index tensor; see ``Images.batches``."""
        for pixels, labels in sent_ahead(self._chosen(order, augment), self.device):
            # Channels stay last in memory: the layout in which convolutions run fastest.
            planes = pixels.permute(0, 3, 1, 2)
            if self.image_size != pixels.shape[1]:
                size = (self.image_size, self.image_size)
                planes = F.interpolate(planes.float(), size, mode="bilinear", antialias=True)
            yield _normalize(planes, self.statistics), labels

    def _chosen(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield pixels as they are seen, uint8 (N, H, H, 3), and labels, where the images are."""
        windows = self._windows(*augment) if augment else None
        for index in _moved_together(order, self.pixels.device):
            pixels = self.pixels.index_select(0, index)
            if windows is not None:
                pixels = self._crop(pixels, *(choice[index] for choice in windows))
                pixels = self._changed(pixels, index, augment)
            yield pixels, self.labels[index]

    def _changed(self, pixels: Tensor, index: Tensor, augment: tuple[int, int] | None) -> Tensor:
        if self.policy is None or augment is None:
            return pixels
        numbers = index.tolist()
        return torch.stack(
            [changed(self.policy, p, *augment, n) for p, n in zip(pixels, numbers, strict=True)]
        )

    def _windows(self, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw top, left and mirrored for every sample, each (N,)."""
        random = generator(seed, epoch, 1)
        shape = (len(self.pixels),)
        top, left = (torch.randint(2 * self._pad + 1, shape, generator=random) for _ in range(2))
        mirrored = torch.randint(2, shape, generator=random) * int(self.flip)
        device = self.pixels.device
        return top.to(device), left.to(device), mirrored.bool().to(device)

    @property
    def _pad(self) -> int:
        return self.pixels.shape[1] // 8

    def _crop(self, pixels: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        count, side, pad = len(pixels), pixels.shape[1], self._pad
        padded = F.pad(pixels, (0, 0, pad, pad, pad, pad))
        wide = side + 2 * pad
        steps = torch.arange(side, device=pixels.device)
        rows = (top + wide * torch.arange(count, device=pixels.device))[:, None] + steps
        columns = left[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
        # One index per pixel: three times as fast as indexing by sample, row and column.
        flat = rows[:, :, None] * wide + columns[:, None, :]
        return padded.view(-1, 3).index_select(0, flat.view(-1)).view_as(pixels)


class FileImages:
    """Images that are read when they are needed.

    Training takes a random part of 8 to 100 % of the area, resized, and mirrors every second one
    (Szegedy et al. 2015); otherwise the center is seen, as ``preprocessing`` says.

    A damaged image stops everything, or with ``skip_bad`` is left out of its batch, which may be
    empty then; ``skipped`` says of each why.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        image_size: int,
        *,
        workers: int,
        skip_bad: bool = False,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.files, self.labels = files, labels
        self.image_size, self.workers, self.skip_bad = image_size, workers, skip_bad
        self.preprocessing = preprocessing or Preprocessing()
        self.skipped: dict[int, str] = {}
        self.policy: Policy | None = None
        self.device = torch.device("cpu")

    def on(self, device: torch.device) -> FileImages:
        """Return the same images, whose batches come on a device; both know what is skipped."""
        moved = copy.copy(self)
        moved.device = device
        return moved

    def batches(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield a batch per index tensor; see ``Images.batches``.

        Raises:
            UserError: an image cannot be decoded, unless with ``skip_bad``.
        """
        statistics = self.preprocessing.statistics
        for pixels, labels in sent_ahead(self._read(order, augment), self.device):
            if pixels.device.type == "cpu":
                yield _normalize_files(pixels, statistics), labels
            else:
                yield _normalize(pixels.permute(0, 3, 1, 2), statistics), labels

    def _read(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield pixels, uint8 (N, size, size, 3), and labels on the CPU."""
        loader = DataLoader(
            _Files(self.files, self.image_size, augment, self.policy, self.preprocessing),
            batch_sampler=[index.tolist() for index in order],
            num_workers=self.workers,
            collate_fn=collate,
            # Else the loader draws its workers' seeds from the global generator.
            generator=generator(0),
        )
        for index, batch in zip(order, loader, strict=True):
            for place, message in batch.broken.items():
                self.skipped[int(index[place])] = message
            if batch.broken and not self.skip_bad:
                raise UserError(next(iter(batch.broken.values())))
            size = (len(batch.kept), self.image_size, self.image_size, 3)
            yield batch.pixels.view(size), self.labels[index[batch.kept]]


class _Files(Dataset[Tensor | Broken]):
    """Images as uint8 (size, size, 3): channels last is how files hold them, and what is fast."""

    def __init__(
        self,
        files: Sequence[str],
        size: int,
        augment: tuple[int, int] | None,
        policy: Policy | None = None,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008, it is frozen
    ) -> None:
        self.files, self.size, self.augment, self.policy = files, size, augment, policy
        self.interpolation, self.center = preprocessing.interpolation, preprocessing.center(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | Broken:
        try:
            pixels = decode_pixels(self.files[index])
        except UserError as error:
            return Broken(str(error))
        if self.augment is None:
            return self.center(Image.fromarray(pixels.numpy())).permute(1, 2, 0)
        top, left, height, width, mirrored = _window(pixels, generator(*self.augment, 2, index))
        part = pixels[top : top + height, left : left + width].permute(2, 0, 1)
        size = (self.size, self.size)
        # On bytes: four times as fast as Pillow's, and within one of its values.
        resized = F.interpolate(part[None], size, mode=self.interpolation, antialias=True)
        rows = resized[0].permute(1, 2, 0)
        rows = rows.flip(1) if mirrored else rows
        return rows if self.policy is None else changed(self.policy, rows, *self.augment, index)


def changed(policy: Policy, pixels: Tensor, seed: int, epoch: int, sample: int) -> Tensor:
    """Return ``pixels`` uint8 (height, width, 3) as a policy changes a sample in an epoch."""
    with drawing_from(mix(seed, epoch, 3, sample)):
        return policy(pixels.permute(2, 0, 1)).permute(1, 2, 0)


def _window(pixels: Tensor, random: torch.Generator) -> tuple[int, int, int, int, bool]:
    """Draw top, left, height and width of a part of ``pixels`` (H, W, 3), and whether to mirror.

    Source: Szegedy et al. 2015, as torchvision's RandomResizedCrop draws it: 8 to 100 % of the
    area, an aspect ratio of 3/4 to 4/3, and after ten misfits the largest part in the middle.
    """
    rows, columns = pixels.shape[:2]
    draws = torch.rand(11, 2, generator=random, dtype=torch.float64).tolist()
    (across, down), *attempts = draws
    mirrored = bool(torch.randint(2, (), generator=random))
    for area, ratio in attempts:
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        target = (0.08 + 0.92 * area) * rows * columns
        width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < width <= columns and 0 < height <= rows:
            top, left = int(down * (rows - height + 1)), int(across * (columns - width + 1))
            return top, left, height, width, mirrored
    height = min(rows, max(1, round(columns * 4 / 3)))
    width = min(columns, max(1, round(rows * 4 / 3)))
    return (rows - height) // 2, (columns - width) // 2, height, width, mirrored


def _normalize_files(pixels: Tensor, statistics: Statistics = IMAGENET_STATISTICS) -> Tensor:
    """Turn ``pixels`` uint8 (N, H, W, 3) to float32 (N, 3, H, W), as ``_normalize`` does.

    Image by image, which stays in the cache, and row by row, whose three channels alternate.
    """
    count, height, width = pixels.shape[:3]
    mean, deviation = (255.0 * torch.tensor(row).repeat(width) for row in statistics)
    out = torch.empty(count, height, 3 * width)
    for image, rows in zip(out, pixels.reshape(count, height, 3 * width), strict=True):
        image.copy_(rows).sub_(mean).div_(deviation)
    return out.view(count, height, width, 3).permute(0, 3, 1, 2)
