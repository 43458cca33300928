"""``make bench-device``: codes, sums and logits of the CUDA kernels beside the CPU's, bit for bit.

The kernels run on their emulator, as those of a device of torch's: the same comparison as that of
``make gpu``, on fewer images of large networks. Writes a table and ends with one RESULT line.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.report import table
from benchmarks.harness import emulated_device, machine, report
from benchmarks.harness.images import image_files

STEM = "emulated_bits"
# Network -> images: as many as minutes allow.
COUNTS = {"resnet20": 1000, "efficientnet-micro": 1000, "efficientnet-b0": 40}
Row = dict[str, Any]


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--images", default="", metavar="PATH", help="folder or tar of images; made ones otherwise")
    add("--networks", nargs="+", choices=list(COUNTS), default=list(COUNTS), metavar="NAME")
    add("--count", type=int, default=max(COUNTS.values()), help="of images of each, at most")
    add("--results", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count is {args.count}, but must be at least 1")
    if args.images and not Path(args.images).exists():
        parser.error(f"--images {args.images!r} is not there")
    if not emulated_device.built().exists():
        parser.error("the emulated device is not built: make build-device")
    return args


def rows_of(name: str, files: list[Path], count: int) -> list[Row]:
    """Return the rows of a network: how many values were compared, and how many differ."""
    # These import the kernels, which are those of the emulated device once it is loaded.
    from benchmarks.gpu.settings import Settings
    from benchmarks.gpu.stages import bit_identity

    cases = {case.arch: case for case in (*bit_identity.QUICK_CASES, *bit_identity.CASES)}
    settings = Settings(emulated_device.NAME, False, "", ends=math.inf)
    count = min(count, COUNTS[name])
    # The first two batches give the ranges, the first one the values in layers.
    *_, last = bit_identity.rows_of(cases[name], files[:count], count, settings)
    return last


def markdown(rows: list[Row], what: str, facts: dict[str, str]) -> str:
    """Return the page."""
    lines = [
        "# CUDA kernels on their emulator beside the CPU",
        "",
        f"Made by `make bench-device` with {what}. The kernels' sources are compiled for the host "
        "and run there as those of a device of torch's; what is not ours is the CPU's on both "
        "sides. Codes and sums are those of every convolution, each fed with its input on the CPU.",
        "",
        *table(rows),
        "",
        report.facts(facts),
        "",
    ]
    return "\n".join(lines)


@torch.no_grad()
def main(argv: list[str] | None = None) -> int:
    """Compare what is asked for; 1 where a bit differs."""
    args = parsed(argv)
    emulated_device.load()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        files = image_files(args.images, Path(scratch))
        rows = [row for name in args.networks for row in rows_of(name, files, args.count)]
    what = "real images" if files else "made images, normal values"
    facts = machine.describe()
    differ = sum(row["differ"] for row in rows)
    summary = {"values": sum(row["values"] for row in rows), "differ": differ}
    record = {"machine": facts, "images": what, "rows": rows}
    report.publish(args.results, STEM, markdown(rows, what, facts), record, summary)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
