"""Image files: listed by class folder, decoded, and one that cannot be read named.

An image is read as torchvision's ImageFolder reads it by default: as RGB, without its alpha
channel, the first of several frames, and as its pixels are stored, whatever EXIF says of their
orientation. Samples of 16 bits are the exception: ImageFolder clips them.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from micronet.utils.errors import UserError
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    from torchvision import io as vision
else:
    vision = lazy("torchvision.io")

# Files that one task decodes: 60,000 tasks would cost more than 60,000 small images.
_CHUNK = 256
# Suffixes of images, those of ImageFolder.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Suffixes of images that ImageFolder passes over too.
_OTHER_KINDS = (".gif", ".jfif", ".jpe", ".jp2", ".avif", ".heic", ".heif", ".pbm", ".pnm", ".tga")
# How files begin.
_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tags of a TIFF file: bits of a sample, whether 0 is white, and whether samples have a sign.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
# Pillow's readers raise any of these on bytes that they do not expect.
_PILLOW_RAISES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Listing:
    """The images of one folder of class folders: ``labels`` int64 (N,) index ``classes``.

    ``passed_over`` are images too, by their names, but of kinds that are not listed.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: Tensor
    passed_over: tuple[str, ...] = ()


def list_images(folder: Path) -> Listing:
    """List a folder that holds one folder of images per class, in order of name.

    Hidden files and files without a suffix of ``IMG_EXTENSIONS`` are passed over; folders in a
    class's folder belong to that class, as do links to folders.

    Raises:
        UserError: no class folder, or one without images; a link that leads nowhere, or to a folder
            whose images would count twice.
    """
    classes = sorted(e.name for e in entries(folder) if _is_folder(e))
    if not classes:
        raise UserError(f"{str(folder)!r} holds no class folders")
    above = os.path.realpath(folder)
    around = {str(parent): str(parent) for parent in Path(above).parents} | {above: str(folder)}
    files: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(classes):
        found = _files_below(str(folder / name), dict(around))
        listed = [path for path in found if path.lower().endswith(IMG_EXTENSIONS)]
        odd = [path for path in found if path.lower().endswith(_OTHER_KINDS)]
        if not listed:
            hint = f" but {odd[0]!r}, which is of none of the kinds read" if odd else ""
            raise UserError(f"class folder {str(folder / name)!r} holds no images{hint}")
        others += odd
        files += listed
        labels += [label] * len(listed)
    return Listing(tuple(classes), tuple(files), torch.tensor(labels), tuple(others))


def decode(path: str) -> Image.Image:
    """Read an image as RGB of 8 bits.

    Samples of 16 bits keep their upper 8, as Pillow has it for RGB in PNG and TIFF files, and
    torchvision's ``to_dtype`` for integers.

    Raises:
        UserError: it cannot be read, is cut short, is no image, or has pixels without a defined
            range, such as floats.
    """
    _check_regular(path)
    try:
        with Image.open(path) as image:
            return _as_rgb(image, path)
    except UnidentifiedImageError:
        raise UserError(f"image {path!r} {_unidentified(path)}") from None
    except _PILLOW_RAISES as error:
        reason = getattr(error, "strerror", None)
        problem = f"cannot be read: {reason}" if reason else f"is damaged: {error}"
        raise UserError(f"image {path!r} {problem}") from None


def decode_pixels(path: str) -> Tensor:
    """Read an image as uint8 (height, width, 3), the same values as ``decode``.

    Raises:
        UserError: as ``decode``.
    """
    content = _content(path)
    if content[:2].tobytes() == _JPEG:
        try:
            # A fifth faster than by way of Pillow; both are libjpeg-turbo and agree on every bit.
            planes = vision.decode_jpeg(torch.from_numpy(content), mode=vision.ImageReadMode.RGB)
            return planes.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow reads some that this one does not, and says what is wrong with others.
    return torch.from_numpy(np.asarray(decode(path)).copy())


class Jpeg(NamedTuple):
    """A file's bytes, uint8 (bytes,), and what its header says: sides in pixels."""

    content: Tensor
    height: int
    width: int


def whole_jpeg(path: str) -> Jpeg | None:
    """Read a JPEG file without decoding it.

    Returns:
        None where decoders may differ by more than roundings: what is cut short, is another kind
        of file or several pictures in one, or has colors other than gray and YCbCr.
    """
    try:
        content = _content(path)
        if content[-2:].tobytes() != _JPEG_END:
            return None
        with Image.open(io.BytesIO(content.tobytes()), formats=("JPEG",)) as image:
            # As libjpeg tells RGB from YCbCr.
            stored_as_rgb = (
                image.info.get("adobe_transform", 1) != 1 or _component_names(image) == b"RGB"
            )
            if image.format != "JPEG" or image.mode not in ("L", "RGB") or stored_as_rgb:
                return None
            return Jpeg(torch.from_numpy(content), image.height, image.width)
    except (UserError, *_PILLOW_RAISES):
        return None


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


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what a folder holds in order of name, without hidden entries.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read folder {str(folder)!r}: {error.strerror}") from None


def _content(path: str) -> np.ndarray:
    _check_regular(path)
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"image {path!r} cannot be read: {error.strerror}") from None


def _component_names(image: Image.Image) -> bytes:
    return bytes(component[0] for component in getattr(image, "layer", ()))


def _check_regular(path: str) -> None:
    """Hold a path to a file: a pipe or a device would be read without end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        kind = "is a link that leads nowhere" if os.path.islink(path) else "cannot be read"
        raise UserError(f"image {path!r} {kind}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"image {path!r} is no file, but a folder, a pipe or a device")


def _as_rgb(image: Image.Image, path: str) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    signed = 2 in tags.get(_SAMPLE_FORMAT, (1,))
    # Pillow scales the samples of a PGM file to 16 bits; other 32-bit integers have any range.
    if signed or image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floats" if image.mode == "F" else "integers with a sign or of 32 bits"
        raise UserError(
            f"image {path!r} is a {image.format} file of {kind} (mode {image.mode!r}), whose range "
            "is not defined: convert it to 8 or 16 bits without a sign"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(_upper_bits(image, tags)).convert("RGB")
    image.load()
    # Conversion drops it, and would warn of palettes.
    image.info.pop("transparency", None)
    try:
        return image.convert("RGB")
    except ValueError:
        raise UserError(
            f"image {path!r} is a {image.format} file of mode {image.mode!r}, which Pillow does "
            "not convert to RGB"
        ) from None


def _upper_bits(image: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """Return the upper 8 bits of gray samples of 16 bits, or of as many as a TIFF file says."""
    samples = np.asarray(image)
    gray = (samples >> (max(tags.get(_BITS, (16,))) - 8)).astype(np.uint8)
    # Pillow inverts such samples of 8 bits alone.
    return 255 - gray if tags.get(_PHOTOMETRIC) == 0 else gray


def _unidentified(path: str) -> str:
    with open(path, "rb") as file:
        if file.read(4) in _TIFF:
            return "is a TIFF file that is damaged, or whose pixel type Pillow does not read"
    return "is damaged: it begins like no known format"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link may lead nowhere only as an image.

    An image is looked at when it is read, and may then be left out; a lost folder never would be.
    """
    try:
        if entry.is_symlink():
            os.stat(entry.path)
        return entry.is_dir()
    except OSError as error:
        if entry.name.lower().endswith(IMG_EXTENSIONS):
            return False
        problem = f"{entry.path!r} is a link that leads nowhere: {error.strerror}"
        raise UserError(problem) from None


def _files_below(folder: str, reached: dict[str, str]) -> list[str]:
    """Return a class's files; ``reached`` gives folders, by where they are, as they were named."""
    place = os.path.realpath(folder)
    if place in reached:
        raise UserError(
            f"folder {folder!r} leads to {reached[place]!r}, whose images would count twice"
        )
    reached[place] = folder
    found: list[str] = []
    for entry in entries(folder):
        if _is_folder(entry):
            found += _files_below(entry.path, reached)
        else:
            found.append(entry.path)
    return sorted(found)
