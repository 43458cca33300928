"""Batches of images: out of memory for small ones, out of files for large ones.

Every random choice is a function of (seed, epoch, sample) alone: it depends neither on the
batch size, nor on the number of workers, nor on torch's global generator, which stays untouched.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from micronet.data.augmentation import Policy, changed
from micronet.data.collation import Broken, Read, collate
from micronet.data.device_decoding import completed
from micronet.data.preprocessing import (
    CIFAR_STATISTICS,
    IMAGENET_STATISTICS,
    Preprocessing,
    Statistics,
)
from micronet.data.samples import Files
from micronet.data.seeds import generator
from micronet.data.transfer import Batch, has_room, put_together_ahead, sent_ahead
from micronet.utils.errors import UserError


class Images(Protocol):
    """Labeled images, served in any order."""

    labels: Tensor
    policy: Policy | None

    @property
    def statistics(self) -> Statistics:
        """Return the mean and the deviation of pixels in [0, 1] that batches are normalized by."""

    def batches(self, order: Sequence[Tensor], augment: tuple[int, int] | None) -> Iterator[Batch]:
        """Yield (images float32 (N, 3, H, W) normalized, labels int64 (N,)) per index tensor.

        ``augment`` is (seed, epoch), or None for the images as they are.
        """

    def on(self, device: torch.device) -> Images:
        """Return the same images, whose batches come on a device."""


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
        self.statistics: Statistics = (
            preprocessing.statistics if preprocessing else CIFAR_STATISTICS
        )
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

    With ``decode_on_device`` the device decodes what training sees of JPEG files, unless a policy
    changes images one by one, which the CPU does; see ``data.device_decoding``.

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
        self.decode_on_device = False
        self.device = torch.device("cpu")

    @property
    def statistics(self) -> Statistics:
        """Return mean and deviation; see ``Images.statistics``."""
        return self.preprocessing.statistics

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
        encoded = self.decode_on_device and self.policy is None
        files = Files(
            self.files, self.image_size, augment, self.policy, self.preprocessing, encoded=encoded
        )
        statistics = self.statistics

        def put_together(item: tuple[Tensor, Read]) -> Batch:
            return self._batch(files, *item)

        # The workers end with this loop, not with the last traceback that knows of them.
        with contextlib.closing(self._read(order, files)) as read:
            for pixels, labels in put_together_ahead(read, self.device, put_together):
                if pixels.device.type == "cpu":
                    yield _normalize_files(pixels, statistics), labels
                else:
                    yield _normalize(pixels.permute(0, 3, 1, 2), statistics), labels

    def _read(
        self, order: Sequence[Tensor], files: Files
    ) -> Generator[tuple[Tensor, Read], None, None]:
        """Yield the indices of each batch, and what workers read of it."""
        loader = DataLoader(
            files,
            batch_sampler=[index.tolist() for index in order],
            num_workers=self.workers,
            collate_fn=collate,
            # Else the loader draws its workers' seeds from the global generator.
            generator=generator(0),
        )
        yield from zip(order, loader, strict=True)

    def _batch(self, files: Files, index: Tensor, read: Read) -> Batch:
        """Return pixels of what can be read, uint8 (N, size, size, 3), and labels on the CPU."""

        def on_cpu(place: int) -> Tensor | Broken:
            return files.read(int(index[place]))

        method = self.preprocessing.interpolation
        batch = completed(read, self.image_size, method, self.device, on_cpu)
        for place, message in batch.broken.items():
            self.skipped[int(index[place])] = message
        if batch.broken and not self.skip_bad:
            raise UserError(next(iter(batch.broken.values())))
        size = (len(batch.kept), self.image_size, self.image_size, 3)
        return batch.pixels.view(size), self.labels[index[batch.kept]]


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
