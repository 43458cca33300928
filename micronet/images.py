"""Image files: listed by class folder, decoded, and a broken one named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import ImageReadMode, decode_jpeg

from micronet.errors import UserError

# Files that one task decodes: 60,000 tasks would cost more than 60,000 small images.
_CHUNK = 256
# How a JPEG file begins.
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Listing:
    """The images of one folder of class folders: ``labels`` int64 (N,) index ``classes``."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: Tensor


def list_images(folder: Path) -> Listing:
    """List a folder that holds one folder of images per class, in order of name.

    Hidden files and files without an image's suffix are passed over; folders in a class's folder
    belong to that class.

    Raises:
        UserError: no class folder, or one without images.
    """
    classes = sorted(e.name for e in _entries(folder) if e.is_dir() and e.name[0] != ".")
    if not classes:
        raise UserError(f"{str(folder)!r} holds no class folders")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_below(folder / name)
        if not found:
            raise UserError(f"class folder {str(folder / name)!r} holds no images")
        files += found
        labels += [label] * len(found)
    return Listing(tuple(classes), tuple(files), torch.tensor(labels))


def decode(path: str) -> Image.Image:
    """Read an image as RGB.

    Raises:
        UserError: it cannot be read, is cut short, or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"image {path!r} is damaged: it begins like no known format") from None
    # Pillow's readers raise any of these on bytes that they do not expect.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image {path!r} is damaged: {reason}") from None


def decode_pixels(path: str) -> Tensor:
    """Read an image as uint8 (height, width, 3), the same values as ``decode``.

    Raises:
        UserError: as ``decode``.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"image {path!r} is damaged: {error.strerror}") from None
    if content[:2].tobytes() == _JPEG:
        try:
            # A fifth faster than by way of Pillow; both are libjpeg-turbo and agree on every bit.
            planes = decode_jpeg(torch.from_numpy(content), mode=ImageReadMode.RGB)
            return planes.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow reads some that this one does not, and says what is wrong with others.
    return torch.from_numpy(np.asarray(decode(path)).copy())


def decode_square(files: Sequence[str], side: int) -> Tensor | None:
    """Read all of ``files`` into uint8 (N, side, side, 3), or return None if one has another size.

    Raises:
        UserError: one of them cannot be decoded.
    """
    pixels = np.empty((len(files), side, side, 3), dtype=np.uint8)

    def fill(start: int) -> bool:
        for index in range(start, min(start + _CHUNK, len(files))):
            image = decode(files[index])
            if image.size != (side, side):
                return False
            pixels[index] = np.asarray(image)
        return True

    with ThreadPoolExecutor() as pool:
        complete = all(pool.map(fill, range(0, len(files), _CHUNK)))
    return torch.from_numpy(pixels) if complete else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"cannot read folder {str(folder)!r}: {error.strerror}") from None


def _images_below(folder: Path) -> list[str]:
    found: list[str] = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += _images_below(Path(entry.path))
        elif entry.name.lower().endswith(IMG_EXTENSIONS):
            found.append(entry.path)
    return sorted(found)
