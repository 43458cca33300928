"""Data sets by name or folder, split for training, validation and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from micronet.batches import Batch, FileImages, Images, MemoryImages, generator
from micronet.errors import UserError, nearest
from micronet.images import Listing, decode, decode_square, list_images
from micronet.splits import stratified_split

DEFAULT_HOLDOUT = 0.1
# Where CIFAR-10 and CIFAR-100 are fetched to, below the working directory.
DOWNLOADS = Path(".data")

_SMALL_SIDE = 64
# Decoded images above this number of bytes are read from their files instead.
_MEMORY_LIMIT = 4 << 30


@dataclass(frozen=True)
class Data:
    """One data set, ready to be iterated over any number of times.

    All images are float32 (N, channels, image_size, image_size), normalised; labels are int64.
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

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

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
            UserError: an image cannot be decoded.
        """
        images, indices = self.parts["train"]
        random = generator(self.seed, epoch, 0)
        order = indices[torch.randperm(len(indices), generator=random)]
        batches = order.split(self.batch_size)[start_step : self.steps_per_epoch]
        shares = [batch.tensor_split(self.processes)[self.rank] for batch in batches]
        return images.batches(shares, (self.seed, epoch) if self.augment else None)

    def shared(self, rank: int, processes: int) -> Data:
        """Return the share of one process: an equal part of each batch, other images to evaluate.

        Raises:
            UserError: a batch cannot be shared equally, so that its mean would not be the means'.
        """
        size = min(self.batch_size, self.train_size)
        if size % processes:
            raise UserError(f"{processes} processes cannot share a batch of {size} images equally")
        return dataclasses.replace(self, rank=rank, processes=processes)

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
        if part not in self.parts:
            return iter(())
        images, indices = self.parts[part]
        share = indices.tensor_split(self.processes)[self.rank]
        return images.batches(share.split(self.batch_size) if len(share) else [], None)


@dataclass(frozen=True)
class _Source:
    """A data set as it comes, before anything is held out."""

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Images
    validation: Images | None
    test: Images | None


def open_data(
    source: str,
    *,
    image_size: int | None,
    batch_size: int,
    seed: int,
    holdout: float | None = None,
    workers: int = 0,
    augment: bool = True,
    skip_bad_images: bool = False,
) -> Data:
    """Open ``digits``, ``cifar10``, ``cifar100``, or a folder with train/, val/ and test/.

    Where there is no val/, a tenth of the training images is held out for validation, stratified
    and always the same. An explicit ``holdout`` (a share of the training images) does so in any
    case; val/ is then the test set, unless there is a test/.

    Args:
        source: name or folder.
        image_size: side in pixels, None for the data's own (224 for large images).
        batch_size: images per batch.
        seed: of order and augmentation.
        holdout: share of the training images to validate on, above 0 and below 1.
        workers: processes that decode large images.
        augment: whether training images are cropped and mirrored at random.
        skip_bad_images: leave damaged images of a folder out, instead of stopping; see ``skipped``.

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
    builtin = _BUILTINS.get(source)
    found = (
        builtin(image_size)
        if builtin
        else _open_folder(source, image_size, workers, skip_bad_images)
    )
    parts = _split(found, holdout)
    return Data(found.name, found.classes, found.image_size, batch_size, seed, augment, parts)


def _split(source: _Source, holdout: float | None) -> dict[str, tuple[Images, Tensor]]:
    parts: dict[str, tuple[Images, Tensor]] = {}
    test = source.test
    if source.validation is not None and holdout is None:
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


def _open_digits(image_size: int | None) -> _Source:
    """Scikit-learn's 1,797 scanned digits of 8x8 pixels, a fifth of them for test."""
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    digits = load_digits()
    size = image_size or 32
    planes = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    planes = F.interpolate(planes, (size, size), mode="bilinear").round().to(torch.uint8)
    pixels = planes.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    labels = torch.from_numpy(digits.target)
    train, test = (
        MemoryImages(pixels[part], labels[part], size, flip=False)
        for part in stratified_split(labels, 0.2)
    )
    classes = tuple(str(name) for name in digits.target_names)
    return _Source("digits", classes, size, train, None, test)


def _open_cifar(name: str, kind: type[torchvision.datasets.CIFAR10], size: int | None) -> _Source:
    try:
        sets = [kind(str(DOWNLOADS), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot fetch {name} into {str(DOWNLOADS)!r}: {error}") from None
    size = size or 32
    train, test = (
        MemoryImages(torch.from_numpy(s.data), torch.tensor(s.targets), size, flip=True)
        for s in sets
    )
    return _Source(name, tuple(sets[0].classes), size, train, None, test)


_BUILTINS: dict[str, Callable[[int | None], _Source]] = {
    "digits": _open_digits,
    "cifar10": lambda size: _open_cifar("cifar10", torchvision.datasets.CIFAR10, size),
    "cifar100": lambda size: _open_cifar("cifar100", torchvision.datasets.CIFAR100, size),
}


def _open_folder(source: str, image_size: int | None, workers: int, skip_bad: bool) -> _Source:
    root = Path(source)
    if not root.is_dir():
        known = ", ".join(_BUILTINS)
        hint = nearest(source, _BUILTINS)
        raise UserError(f"{source!r} is neither a folder nor a known data set ({known}){hint}")
    if not (root / "train").is_dir():
        raise UserError(f"data folder {source!r} holds no folder train/")
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    listings = [list_images(root / name) for name in present]
    train = listings[0]
    for name, listing in zip(present, listings, strict=True):
        odd = sorted(set(listing.classes) ^ set(train.classes))
        if odd:
            holder = name if odd[0] in listing.classes else "train"
            raise UserError(
                f"the classes of {str(root / name)!r} are not those of train/: "
                f"only {holder}/ has {odd[0]!r}"
            )
    images: Sequence[MemoryImages | FileImages] | None = None
    # Images in memory are all read at once: where one may be damaged they stay in their files.
    if not skip_bad:
        images = _in_memory(listings, image_size)
    images = images or [
        FileImages(each.files, each.labels, image_size or 224, workers=workers, skip_bad=skip_bad)
        for each in listings
    ]
    parts = dict(zip(present, images, strict=True))
    name, size = root.resolve().name, images[0].image_size
    return _Source(name, train.classes, size, parts["train"], parts.get("val"), parts.get("test"))


def _in_memory(listings: list[Listing], image_size: int | None) -> list[MemoryImages] | None:
    """Decode all images if they are square, small and of one size; return None if they are not."""
    width, height = decode(listings[0].files[0]).size
    total = sum(len(listing.files) for listing in listings)
    if width != height or width > _SMALL_SIDE or total * 3 * width * height > _MEMORY_LIMIT:
        return None
    images: list[MemoryImages] = []
    for listing in listings:
        pixels = decode_square(listing.files, width)
        if pixels is None:
            return None
        images.append(MemoryImages(pixels, listing.labels, image_size or width, flip=True))
    return images
