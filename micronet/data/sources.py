"""Where images come from: sets by name, and folders of classes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from micronet.data.batches import FileImages, Images, MemoryImages
from micronet.data.image_files import (
    IMG_EXTENSIONS,
    Listing,
    decode,
    decode_square,
    entries,
    list_images,
)
from micronet.data.preprocessing import Preprocessing
from micronet.data.splits import stratified_split
from micronet.utils.errors import UserError, nearest
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    import torchvision
else:
    torchvision = lazy("torchvision")

# Where CIFAR-10 and CIFAR-100 are fetched to, below the working directory.
DOWNLOADS = Path(".data")

# The scanned digits in scikit-learn's package.
_DIGITS = Path("datasets", "data", "digits.csv.gz")

# The parts of a folder, and how else they are called.
_PARTS = ("train", "val", "test")
_OTHER_NAMES = ("training", "validation", "valid", "dev", "eval", "evaluation", "testing", *_PARTS)

_SMALL_SIDE = 64
# Decoded images above this number of bytes are read from their files instead.
_MEMORY_LIMIT = 4 << 30


@dataclass(frozen=True)
class Source:
    """A data set as it comes, before anything is held out; ``notes`` say what was passed over."""

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Images | None
    validation: Images | None
    test: Images | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """How the images of a source are wanted; see ``datasets.open_data``."""

    image_size: int | None = None
    preprocessing: Preprocessing | None = None
    workers: int = 0
    skip_bad: bool = False

    def in_memory(self, pixels: Tensor, labels: Tensor, size: int, *, flip: bool) -> MemoryImages:
        """Return images that were decoded, which come in ``size`` where no other is wanted."""
        size = self.image_size or size
        return MemoryImages(pixels, labels, size, flip=flip, preprocessing=self.preprocessing)

    def in_files(self, listing: Listing) -> FileImages:
        """Return images that are decoded when they are needed."""
        wanted = self.preprocessing or Preprocessing()
        return FileImages(
            listing.files,
            listing.labels,
            self.image_size or wanted.image_size,
            workers=self.workers,
            skip_bad=self.skip_bad,
            preprocessing=wanted,
        )


def find(source: str, request: Request) -> Source:
    """Open a set by name, or a folder with train/, val/ and test/, some of them.

    Raises:
        UserError: there is no such set or folder, it cannot be fetched or read, or its parts have
            different classes.
    """
    builtin = _BUILTINS.get(source)
    return builtin(request) if builtin else _open_folder(source, request)


def _open_digits(request: Request) -> Source:
    """Scikit-learn's 1,797 scanned digits of 8x8 pixels, a fifth of them for test."""
    images, targets = _scanned_digits()
    size = request.image_size or 32
    planes = torch.from_numpy(images).float()[:, None] * (255 / 16)
    planes = F.interpolate(planes, (size, size), mode="bilinear").round().to(torch.uint8)
    pixels = planes.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    labels = torch.from_numpy(targets)
    train, test = (
        request.in_memory(pixels[part], labels[part], size, flip=False)
        for part in stratified_split(labels, 0.2)
    )
    return Source("digits", tuple("0123456789"), size, train, None, test)


def _scanned_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return images (N, 8, 8) of 0 to 16, and the digits that they show.

    Read from the file that lies in the package: importing it takes longer than a short training.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / _DIGITS
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # where it keeps the file elsewhere

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)


def _open_cifar(name: str, kind: type[torchvision.datasets.CIFAR10], request: Request) -> Source:
    try:
        sets = [kind(str(DOWNLOADS), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot fetch {name} into {str(DOWNLOADS)!r}: {error}") from None
    train, test = (
        request.in_memory(torch.from_numpy(s.data), torch.tensor(s.targets), 32, flip=True)
        for s in sets
    )
    return Source(name, tuple(sets[0].classes), train.image_size, train, None, test)


_BUILTINS: dict[str, Callable[[Request], Source]] = {
    "digits": _open_digits,
    "cifar10": lambda request: _open_cifar("cifar10", torchvision.datasets.CIFAR10, request),
    "cifar100": lambda request: _open_cifar("cifar100", torchvision.datasets.CIFAR100, request),
}


def _open_folder(source: str, request: Request) -> Source:
    root = Path(source)
    if not os.path.isdir(root):
        known = ", ".join(_BUILTINS)
        hint = nearest(source, _BUILTINS)
        raise UserError(f"{source!r} is neither a folder nor a known data set ({known}){hint}")
    present = [name for name in _PARTS if _is_part(root / name)]
    if not present:
        others = "".join(f"; it holds {name}/" for name in _passed_over(root, ()))
        raise UserError(f"data folder {source!r} holds no folder train/, val/ or test/{others}")
    listings = [list_images(root / name) for name in present]
    first = listings[0]
    for name, listing in zip(present, listings, strict=True):
        odd = sorted(set(listing.classes) ^ set(first.classes))
        if odd:
            holder = name if odd[0] in listing.classes else present[0]
            raise UserError(
                f"the classes of {str(root / name)!r} are not those of {present[0]}/: "
                f"only {holder}/ has {odd[0]!r}"
            )
    images: Sequence[MemoryImages | FileImages] | None = None
    # Images in memory are all read at once: where one may be damaged they stay in their files.
    if not request.skip_bad:
        images = _in_memory(listings, request)
    images = images or [request.in_files(each) for each in listings]
    parts = dict(zip(present, images, strict=True))
    name, size = root.resolve().name, images[0].image_size
    train, validation, test = (parts.get(part) for part in _PARTS)
    notes = _notes(root, first.classes, held_out="train" in parts and "val" not in parts)
    notes += tuple(_kinds(listing) for listing in listings if listing.passed_over)
    return Source(name, first.classes, size, train, validation, test, notes)


def _kinds(listing: Listing) -> str:
    count, first = len(listing.passed_over), listing.passed_over[0]
    files = f"{count} images, such as {first!r}, are" if count > 1 else f"image {first!r} is"
    return f"{files} passed over: names of images end in {', '.join(IMG_EXTENSIONS)}"


def _is_part(folder: Path) -> bool:
    """Whether there is such a folder; a file or a lost link of that name is a mistake."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        problem = "leads nowhere" if folder.is_symlink() else "is no folder"
        raise UserError(f"{str(folder)!r} {problem}")
    return os.path.isdir(folder)


def _passed_over(root: Path, classes: Sequence[str]) -> list[str]:
    """Return the folders that look like parts of the data: by their names, or by their classes."""
    others = [e for e in entries(root) if e.name not in _PARTS and os.path.isdir(e.path)]
    return [
        entry.name
        for entry in others
        if entry.name.lower() in _OTHER_NAMES
        or any(os.path.isdir(os.path.join(entry.path, name)) for name in classes)
    ]


def _notes(root: Path, classes: Sequence[str], *, held_out: bool) -> tuple[str, ...]:
    """Return a note of each folder passed over, and what validates where none was read for it."""
    instead = "; the validation images are held out of train/" if held_out else ""
    return tuple(
        f"{str(root / name)!r} is passed over: only train/, val/ and test/ are read{instead}"
        for name in _passed_over(root, classes)
    )


def _in_memory(listings: list[Listing], request: Request) -> list[MemoryImages] | None:
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
        images.append(request.in_memory(pixels, listing.labels, width, flip=True))
    return images
