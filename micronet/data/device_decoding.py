"""JPEG files decoded by a CUDA device (nvJPEG), a batch at once, for training alone.

Its pixels are not those of libjpeg to the last bit, and where a file stores fewer colors than
pixels it repeats them instead of interpolating: nothing whose bits are promised is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from micronet.data.collation import Broken, Encoded, Read, collate
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    from torchvision import io as vision
else:
    vision = lazy("torchvision.io")


def can_decode(device: torch.device) -> bool:
    """Whether torchvision decodes JPEG files on a device; its CUDA builds mostly do."""
    gray = vision.encode_jpeg(torch.full((3, 16, 16), 127, dtype=torch.uint8))
    try:
        vision.decode_jpeg([gray], mode=vision.ImageReadMode.RGB, device=device)
    # An operator that is not built is no attribute, one without nvJPEG or a driver an error.
    except (AttributeError, RuntimeError):
        return False
    return True


def completed(
    read: Read,
    size: int,
    interpolation: str,
    device: torch.device,
    on_cpu: Callable[[int], Tensor | Broken],
) -> Read:
    """Return a batch with its encoded images decoded, on the device.

    Waits for the device to decode them, but not to cut and resize the parts that are wanted.

    Args:
        read: the batch as it was read.
        size: side of the images in pixels.
        interpolation: how they are resized.
        device: where they are decoded.
        on_cpu: decodes the image of a place that the device does not decode.
    """
    if not read.encoded:
        return read
    items: dict[int, Tensor | Broken | Encoded] = {}
    items |= {place: Broken(message) for place, message in read.broken.items()}
    items |= zip(read.kept, read.pixels.to(device), strict=True)
    frames = _decoded(_contents(read, device), device)
    for (place, (_, window)), frame in zip(read.encoded.items(), frames, strict=True):
        item = on_cpu(place) if frame is None else window.of(frame, size, interpolation)
        items[place] = item.to(device) if isinstance(item, Tensor) else item
    return collate([items[place] for place in sorted(items)])


def _contents(read: Read, device: torch.device) -> list[Tensor]:
    """Return each encoded file's bytes (bytes,), on the CPU; pinned, where a device copies them."""
    content = read.content.pin_memory() if device.type == "cuda" else read.content
    return list(content.split([length for length, _ in read.encoded.values()]))


def _decoded(contents: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """Return each image as uint8 (3, H, W), or None where it is not decoded on the device.

    Torchvision gives all images or none: halves of a batch find the ones that it refuses.
    """
    on_cuda = device.type == "cuda"
    if on_cuda:
        # Torchvision decodes on a stream of its own into memory of this one, without waiting for
        # what this one still does with it: parts of the batch before may not be cut out yet.
        torch.cuda.current_stream(device).synchronize()
    try:
        return [*vision.decode_jpeg(list(contents), mode=vision.ImageReadMode.RGB, device=device)]
    except RuntimeError:
        if on_cuda:
            # That stream, which torchvision keeps to itself, may still write to the images that an
            # error has freed.
            torch.cuda.synchronize(device)
        if len(contents) == 1:
            return [None]
    middle = len(contents) // 2
    return _decoded(contents[:middle], device) + _decoded(contents[middle:], device)
