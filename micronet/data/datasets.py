"""Data sets by name or folder, split for training, validation and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from micronet.data.batches import Batch, FileImages, Images
from micronet.data.preprocessing import Preprocessing, Statistics
from micronet.data.seeds import generator
from micronet.data.sources import Request, Source, find
from micronet.data.splits import stratified_split
from micronet.utils.errors import UserError

DEFAULT_HOLDOUT = 0.1
_JPEG_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Data:
    """One data set, ready to be iterated over any number of times.

    All images are float32 (N, channels, image_size, image_size), normalized; labels are int64. They
    come on the CPU, unless ``on`` says otherwise.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    batch_size: int
    seed: int
    augment: bool
    parts: dict[str, tuple[Images, Tensor]]
    channels: int = 3
    # Which of how many processes this is; each has its share of every batch.
    rank: int = 0
    processes: int = 1
    # What of the source was passed over, for its user.
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    @property
    def statistics(self) -> Statistics | None:
        """Return the mean and the deviation by which images are normalized, where they are."""
        return next((images.statistics for images, _ in self.parts.values()), None)

    @property
    def train_size(self) -> int:
        """Return the number of training images, without held-out ones."""
        return self._size("train")

    @property
    def validation_size(self) -> int:
        """Return the number of validation images."""
        return self._size("validation")

    @property
    def test_size(self) -> int:
        """Return the number of test images, 0 when there is no test set."""
        return self._size("test")

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches of an epoch: whole ones, as batch norm wants them."""
        return max(self.train_size // self.batch_size, 1)

    def train(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches from one on, shuffled and augmented by (seed, epoch) alone.

        What does not fill a last batch waits for another epoch's order.

        Raises:
            UserError: an image cannot be decoded, or where damaged ones are left out, none of a
                batch can.
        """
        images, indices = self.parts["train"]
        random = generator(self.seed, epoch, 0)
        order = indices[torch.randperm(len(indices), generator=random)]
        batches = order.split(self.batch_size)[start_step : self.steps_per_epoch]
        shares = [batch.tensor_split(self.processes)[self.rank] for batch in batches]
        for batch in images.batches(shares, (self.seed, epoch) if self.augment else None):
            if not len(batch[1]):
                # The statistics and the step of no image.
                raise UserError(self.skipped()[-1])
            yield batch

    def shared(self, rank: int, processes: int) -> Data:
        """Return the share of one process: an equal part of each batch, other images to evaluate.

        Raises:
            UserError: the batch size is not divisible by the number of processes.
        """
        size = min(self.batch_size, self.train_size)
        if size % processes:
            raise UserError(f"{processes} processes cannot share a batch of {size} images equally")
        return self.as_seen_by(rank, processes)

    def as_seen_by(self, rank: int, processes: int) -> Data:
        """Return the images of one process, of each batch and of those to evaluate its own."""
        return dataclasses.replace(self, rank=rank, processes=processes)

    def on(self, device: torch.device) -> Data:
        """Return the same data, whose batches come on a device."""
        moved = {id(images): images.on(device) for images, _ in self.parts.values()}
        parts = {part: (moved[id(images)], index) for part, (images, index) in self.parts.items()}
        return dataclasses.replace(self, parts=parts)

    def decode_on_device(self) -> Data:
        """Let the device of ``on`` decode training images; see ``data.device_decoding``.

        Returns:
            The same data, with a note where there is nothing for it to decode.
        """
        images, _ = self.parts["train"]
        if isinstance(images, FileImages):
            images.decode_on_device = True
            if any(file.lower().endswith(_JPEG_SUFFIXES) for file in images.files):
                return self
            why = "no training image is called .jpg or .jpeg, and the CPU decodes other kinds"
        else:
            why = "the images are kept in memory, decoded"
        note = f"train.decode device finds nothing to decode in {self.name!r}: {why}"
        return dataclasses.replace(self, notes=(*self.notes, note))

    def validation(self) -> Iterator[Batch]:
        """Yield the validation images in order, the last batch short.

        Raises:
            UserError: an image cannot be decoded.
        """
        return self._in_order("validation")

    def test(self) -> Iterator[Batch]:
        """Yield the test images in order, the last batch short; nothing when there are none.

        Raises:
            UserError: an image cannot be decoded.
        """
        return self._in_order("test")

    def skipped(self) -> list[str]:
        """Return, of each damaged image that was left out, why."""
        sets = {id(images): images for images, _ in self.parts.values()}.values()
        found = (images.skipped for images in sets if isinstance(images, FileImages))
        return [message for each in found for message in each.values()]

    def _size(self, part: str) -> int:
        return len(self.parts[part][1]) if part in self.parts else 0

    def _in_order(self, part: str) -> Iterator[Batch]:
        """Yield the images of a part that are not left out; of several processes, this one's."""
        if part not in self.parts:
            return
        images, indices = self.parts[part]
        share = indices.tensor_split(self.processes)[self.rank]
        for batch in images.batches(share.split(self.batch_size) if len(share) else [], None):
            if len(batch[1]):
                yield batch


def open_data(
    source: str,
    *,
    image_size: int | None,
    batch_size: int,
    seed: int,
    holdout: float | None = None,
    workers: int = 0,
    trained: bool = True,
    skip_bad_images: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Data:
    """Open ``digits``, ``cifar10``, ``cifar100``, or a folder with train/, val/ and test/.

    Where there is no val/, a tenth of the training images is held out for validation, stratified
    and always the same. An explicit ``holdout`` (a share of the training images) does so in any
    case; val/ is then the test set, unless there is a test/.

    Args:
        source: name or folder.
        image_size: side in pixels, None for the data's own (of large images that of
            ``preprocessing``, or 224).
        batch_size: images per batch.
        seed: of order and augmentation.
        holdout: share of the training images to validate on, above 0 and below 1.
        workers: processes that decode large images.
        trained: whether there must be training images, and they are cropped and mirrored at random;
            to evaluate alone, val/ or test/ is enough.
        skip_bad_images: leave damaged images of a folder out, instead of stopping; see ``skipped``.
        preprocessing: what the network wants of its images; None takes CIFAR-10's mean and
            deviation for small images and ``Preprocessing()`` for large ones.

    Raises:
        UserError: a value is out of range, there is no such source, it cannot be fetched, a class
            folder is empty, val/ has other classes than train/, or an image cannot be decoded.
    """
    least = {"image_size": 1, "batch_size": 1, "seed": 0, "workers": 0}
    given = {"image_size": image_size, "batch_size": batch_size, "seed": seed, "workers": workers}
    for name, value in given.items():
        if value is not None and value < least[name]:
            raise UserError(f"{name} is {value}, it must be at least {least[name]}")
    if holdout is not None and not 0 < holdout < 1:
        raise UserError(f"holdout is {holdout}, it must be above 0 and below 1")
    found = find(source, Request(image_size, preprocessing, workers, skip_bad_images))
    if found.train is None and trained:
        raise UserError(f"data folder {source!r} holds no folder train/")
    parts = _split(found, holdout)
    size, notes = found.image_size, found.notes
    return Data(found.name, found.classes, size, batch_size, seed, trained, parts, notes=notes)


def _split(source: Source, holdout: float | None) -> dict[str, tuple[Images, Tensor]]:
    parts: dict[str, tuple[Images, Tensor]] = {}
    test = source.test
    if source.train is None:
        if holdout is not None:
            raise UserError(f"{source.name!r} has no training images to hold some out of")
        if source.validation is not None:
            parts["validation"] = _all(source.validation)
    elif source.validation is not None and holdout is None:
        parts["train"] = _all(source.train)
        parts["validation"] = _all(source.validation)
    else:
        share = DEFAULT_HOLDOUT if holdout is None else holdout
        kept, held = stratified_split(source.train.labels, share)
        if len(held) == 0:
            raise UserError(f"{source.name!r} has no class of two images to hold one out of")
        parts["train"], parts["validation"] = (source.train, kept), (source.train, held)
        test = test or source.validation
    if test is not None:
        parts["test"] = _all(test)
    return parts


def _all(images: Images) -> tuple[Images, Tensor]:
    return images, torch.arange(len(images.labels))
