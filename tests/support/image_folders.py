"""Made-up image folders, and how tests look at what is read out of them."""

import numpy as np
import torch
from PIL import Image

from micronet.data import datasets


def write_images(folder, count, side, *, first=0, kind="jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        random = np.random.default_rng([len(folder.name), first + index])
        pixels = random.integers(0, 256, (side, side + (side > 64), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.{kind}")


def make_folder(root, side, *, parts=("train", "val"), classes=("ant", "badger"), count=20):
    for number, part in enumerate(parts):
        for name in classes:
            write_images(
                root / part / name, count if part == "train" else 6, side, first=99 * number
            )
    return root


def open_folder(root, **options):
    return datasets.open_data(
        str(root), **{"image_size": None, "batch_size": 8, "seed": 3, "workers": 0} | options
    )


def collect(iterable):
    pairs = list(iterable)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def assert_same(first, second):
    for a, b in zip(collect(first), collect(second), strict=True):
        assert torch.equal(a, b)
