"""Real images for comparisons that are bit for bit, and how many values of two are not the same."""

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from micronet.data.batches import IMAGENET_STATISTICS

BATCH = 25
ENDINGS = {".jpg", ".jpeg", ".png"}


def image_files(where: str, scratch: Path) -> list[Path]:
    """Return the image files of a folder or of a tar, which is unpacked first, in their order."""
    if not where:
        return []
    folder = Path(where)
    if not folder.is_dir():
        folder = scratch / "images"
        with tarfile.open(where) as archive:
            archive.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def images(files: list[Path], side: int, count: int, size: int = BATCH) -> Iterator[Tensor]:
    """Yield batches of ``size`` normalized images, made ones where there are no files."""
    if not files:
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(count, 3, side, side, generator=generator)
        yield from (
            batch.contiguous(memory_format=torch.channels_last) for batch in whole.split(size)
        )
        return
    cropped = v2.Compose(
        [v2.Resize(round(side * 256 / 224)), v2.CenterCrop(side), v2.PILToTensor()]
    )
    normalized = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET_STATISTICS)]
    )

    def read(file: Path) -> Tensor:
        with Image.open(file) as image:
            return cropped(image.convert("RGB"))

    # PIL lets other threads work while it decodes and resizes. All files are begun at once: as
    # bytes the images are small.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        pending = threads.map(read, files)
        try:
            while batch := list(islice(pending, size)):
                whole = normalized(torch.stack(batch))
                yield whole.contiguous(memory_format=torch.channels_last)
        finally:
            threads.shutdown(cancel_futures=True)


def different(expected: Tensor, found: Tensor) -> int:
    """Return how many values are not the same bits; all where the shapes or types differ."""
    found = found.detach().cpu()
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return expected.numel()
    if expected.dtype.is_floating_point:
        expected, found = (t.contiguous().view(torch.int32) for t in (expected, found))
    return int((expected != found).sum())
