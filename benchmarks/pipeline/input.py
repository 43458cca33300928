"""``make bench-input``: images a second from files to normalized batches, beside torchvision.

A thousand ImageNet images of short side 256, at 224: random parts for training, the center for
evaluation. The reference is torchvision's own ImageFolder with the transforms of its training
recipe and torch's DataLoader. Both in turn, on one thread a process, without workers and with two.
Writes a table under ``benchmarks/results/`` and ends with one RESULT line.
"""

import argparse
import os
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from benchmarks.harness import machine, report
from benchmarks.harness.machine import ROOT
from micronet.data.batches import IMAGENET_STATISTICS, FileImages
from micronet.data.image_files import list_images
from micronet.training.optimizer import keep_freed_memory_mapped
from micronet.utils.errors import UserError, reports_user_errors

ARCHIVE = ROOT.parent / "shared" / "data" / "imagenet-sample.tar"
STEM, SIZE, BATCH = "input_cpu", 224, 64
OURS, THEIRS = "micronet", "torchvision"


def images() -> Path:
    """Return a folder of class folders: IMAGENET_SAMPLE_DIR, or the archive unpacked."""
    if given := os.environ.get("IMAGENET_SAMPLE_DIR"):
        return Path(given)
    unpacked = ROOT / ".data" / "imagenet-sample"
    if not unpacked.exists():
        if not ARCHIVE.exists():
            raise UserError("set IMAGENET_SAMPLE_DIR to a folder of one folder of images a class")
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(ROOT / ".data", filter="data")
    return unpacked / "val"


def ours(folder: Path, train: bool, workers: int) -> Callable[[], Iterator]:
    """Return a function that makes one pass over the images with micronet."""
    listing = list_images(folder)
    files = FileImages(listing.files, listing.labels, SIZE, workers=workers)
    order = torch.arange(len(listing.files)).split(BATCH)
    return lambda: files.batches(order, (0, 0) if train else None)


def theirs(folder: Path, train: bool, workers: int) -> Callable[[], Iterator]:
    """Return a function that makes one pass over the images with torchvision."""
    crop = [T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip()]
    center = [T.Resize(round(SIZE * 256 / 224)), T.CenterCrop(SIZE)]
    steps = [*(crop if train else center), T.ToTensor(), T.Normalize(*IMAGENET_STATISTICS)]
    loader = DataLoader(ImageFolder(str(folder), T.Compose(steps)), BATCH, num_workers=workers)
    return lambda: iter(loader)


def rate(make: Callable[[], Iterator]) -> float:
    """Return the images a second of one pass."""
    began, count = time.perf_counter(), 0
    for batch, _ in make():
        count += len(batch)
    return count / (time.perf_counter() - began)


def measure(folder: Path, rounds: int) -> list[dict[str, object]]:
    """Return the median rates of both, in every setting, measured in turn."""
    rows: list[dict[str, object]] = []
    for train in (True, False):
        for workers in (0, 2):
            makers = {OURS: ours(folder, train, workers), THEIRS: theirs(folder, train, workers)}
            found: dict[str, list[float]] = {name: [] for name in makers}
            for _ in range(rounds + 1):
                for name, make in makers.items():
                    found[name].append(rate(make))
            # The first round warms the files' cache.
            middle = {name: statistics.median(rates[1:]) for name, rates in found.items()}
            rows.append(
                {"pass": "training" if train else "evaluation", "workers": workers, **middle}
            )
            print(rows[-1], flush=True)
    return rows


def markdown(rows: list[dict[str, object]], facts: dict[str, str]) -> str:
    """Return the whole page."""
    about = (
        "Made by `make bench-input`: images a second of a thousand ImageNet images, short side "
        f"256, as batches of {BATCH} at {SIZE}, float32, normalized; medians. With workers the "
        "rate is that of all of them together."
    )
    lines = ["| pass | workers | micronet | torchvision | ratio |", "|---|--:|--:|--:|--:|"]
    for r in rows:
        ratio = r[OURS] / r[THEIRS]
        lines.append(
            f"| {r['pass']} | {r['workers']} | {r[OURS]:,.0f} | {r[THEIRS]:,.0f} | {ratio:.2f} |"
        )
    return "\n".join(["# Input pipeline", "", about, "", *lines, "", report.facts(facts)]) + "\n"


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Measure, print and write the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory_mapped()
    rows, facts = measure(images(), args.rounds), machine.describe()
    first = rows[0]
    summary = {
        "images_per_s": round(first[OURS], 1),
        "vs_torchvision": round(first[OURS] / first[THEIRS], 3),
    }
    text = markdown(rows, facts)
    record = {"summary": summary, "rows": rows, "machine": facts}
    report.publish(args.results, STEM, text, record, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
