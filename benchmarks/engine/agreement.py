"""``make bench-agreement``: the engine's logits beside those of torch, bit for bit, on real images.

Each network is compressed, packed and evaluated three ways: as it is in torch, as its file loaded
back into torch, and by the engine with every instruction set of this machine, on one and two
threads, one, three and sixteen images at a time; with ``--aarch64`` also by the engine for 64-bit
ARM on an emulator, on a few of the images. Weights are random, statistics and ranges those of real
images. Writes a table and ends with one RESULT line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import micronet
from benchmarks.engine import emulated, networks
from benchmarks.engine.settings import B1, Network
from benchmarks.harness import machine, report
from benchmarks.harness.images import different, image_files, images
from micronet.artifact import engine as engines
from micronet.utils.errors import UserError, reports_user_errors

STEM, BITS = "engine_agreement", "4/4"
NETWORKS = (
    Network("resnet20", 32, 10, (BITS,)),
    Network("efficientnet-micro", 32, 10, (BITS,)),
    Network("timm:mobilenetv3_small_100", 224, 1000, (BITS,)),
    Network("efficientnet-b0", 224, 1000, (BITS,)),
    Network(B1, 224, 1000, (BITS,)),
    Network(B1, 240, 1000, (BITS,)),
)
# Threads and images of runs that follow each other; together they take PART images.
SHAPES = ((1, 1), (2, 3), (1, 16), (2, 1), (1, 3), (2, 16))
PART = sum(batch for _, batch in SHAPES)
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512vnni", "avx512amx", "neon", "neondot")


@dataclass
class Row:
    """Logits of one way, and how many are not the bits of torch's evaluation.

    ``micronet`` is the revision that was compared.
    """

    network: str
    side: int
    way: str
    micronet: str
    images: int = 0
    values: int = 0
    differ: int = 0

    def add(self, expected: Tensor, found: Tensor) -> None:
        """Count some images."""
        self.images += len(expected)
        self.values += expected.numel()
        self.differ += different(expected, found)


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--images", default="", metavar="PATH", help="folder or tar of images; made ones otherwise")
    add("--count", type=int, default=25 * PART, help="of images")
    names = list(dict.fromkeys(network.name for network in NETWORKS))
    add("--networks", nargs="+", choices=names, default=names, metavar="NAME")
    add("--aarch64", type=Path, metavar="DIR", help="where `make test-arm` builds; needs qemu")
    add("--results", type=Path, default=report.RESULTS)
    add("--keep", action="store_true", help="what the results have of other networks")
    return parser.parse_args(argv)


def available() -> list[str]:
    """Return the instruction sets that this machine has; the last one stays chosen."""
    found = []
    for name in INSTRUCTION_SETS:
        try:
            engines.choose_instruction_set(name)
        except UserError:
            continue
        found.append(name)
    return found


def by_engine(opened: dict[int, micronet.Engine], batch: Tensor) -> Tensor:
    """Return the engine's logits, in the shapes of runs one after the other."""
    found, first = [], 0
    while first < len(batch):
        for threads, size in SHAPES:
            part = batch[first : first + size]
            if len(part):
                found.append(opened[threads](part.numpy()))
            first += size
    return torch.from_numpy(np.concatenate(found))


def compared(
    network: Network, batches: Iterator[Tensor], folder: Path, aarch64: Path | None
) -> list[Row]:
    """Return the rows of a network."""
    first = next(batches)
    ours = networks.compressed(network, BITS)
    with torch.no_grad():
        ours.train()(first)
    ours.eval()
    micronet.export(ours, folder, image_size=network.side, arch=network.name)
    ways: dict[str, nn.Module] = {"file in torch": micronet.load_packed(folder).eval()}
    opened = {threads: micronet.Engine(folder, threads) for threads in {t for t, _ in SHAPES}}
    names = available()
    commit = machine.revision()
    rows = {way: Row(network.name, network.side, way, commit) for way in (*ways, *names)}
    for part in (first, *batches):
        with torch.no_grad():
            expected = ours(part)
            for way, loaded in ways.items():
                rows[way].add(expected, loaded(part))
        for name in names:
            engines.choose_instruction_set(name)
            rows[name].add(expected, by_engine(opened, part.contiguous()))
        if part is first and aarch64 is not None:
            for name in emulated.INSTRUCTION_SETS:
                row = rows[f"{name}, emulated"] = Row(
                    network.name, network.side, f"{name}, emulated", commit
                )
                found = emulated.logits(aarch64 / "micronet-run", folder, part, name)
                row.add(expected[: len(found)], found)
    return list(rows.values())


def kept(folder: Path, others: list[str], what: str, facts: dict[str, str]) -> list[Row]:
    """Return the rows that a folder's results have of networks besides others.

    Raises:
        UserError: there are none, or they are of other images or of another machine.
    """
    path = folder / f"{STEM}.json"
    try:
        record, page = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    except OSError as error:
        raise UserError(f"cannot keep {str(path)!r}: {error.strerror}") from None
    before = record["machine"]
    differing = [key for key in facts if key != "micronet" and before.get(key) != facts[key]]
    if differing or made_with(what) not in page:
        raise UserError(f"{str(path)!r} is of other {differing[0] if differing else 'images'}")
    revision = {"micronet": before["micronet"]}
    return [Row(**(revision | row)) for row in record["rows"] if row["network"] not in others]


def made_with(what: str) -> str:
    """Return the words that the page begins with."""
    return f"Made by `make bench-agreement` with {what}."


def in_order(rows: list[Row]) -> list[Row]:
    """Return rows in the order of the networks."""
    places = {(network.name, network.side): i for i, network in enumerate(NETWORKS)}
    return sorted(rows, key=lambda row: places[row.network, row.side])


def markdown(rows: list[Row], what: str, facts: dict[str, str]) -> str:
    """Return the page."""
    shapes = ", ".join(f"{threads} x {batch}" for threads, batch in SHAPES)
    lines = [
        "# Logits of the engine beside torch's",
        "",
        f"{made_with(what)} Each logit of a file loaded back into torch, "
        "and of the engine with each instruction set, is compared with torch's evaluation of the "
        f"compressed network, bit for bit. Runs of threads x images follow each other: {shapes}. "
        "Weights are random; statistics and ranges are those of the first images.",
        "",
        "| network | side | logits of | images | values | differ | micronet |",
        "| --- | --: | --- | --: | --: | --: | --- |",
    ]
    lines += [
        f"| {row.network} | {row.side} | {row.way} | {row.images} | {row.values} | {row.differ} "
        f"| {row.micronet} |"
        for row in rows
    ]
    return "\n".join([*lines, "", report.facts(facts), ""])


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Compare what is asked for; 1 where a bit differs."""
    args = parsed(argv)
    chosen, rows = engines.instruction_set(), []
    files: list[Path] = []
    with tempfile.TemporaryDirectory() as scratch:
        files = image_files(args.images, Path(scratch))[: args.count]
        what = f"{len(files)} real images" if files else f"{args.count} made images, normal values"
        facts = machine.describe()
        if args.keep:
            rows += kept(args.results, args.networks, what, facts)
        for network in NETWORKS:
            if network.name not in args.networks:
                continue
            print(f"{network.name} at {network.side}", flush=True)
            parts = images(files, network.side, len(files) or args.count, PART)
            folder = Path(scratch) / f"{network.name}-{network.side}"
            rows += compared(network, parts, folder, args.aarch64)
    engines.choose_instruction_set(chosen)
    rows = in_order(rows)
    summary = {"images": len(files) or args.count, "differ": sum(row.differ for row in rows)}
    record = {"rows": [asdict(row) for row in rows], "machine": facts}
    report.publish(args.results, STEM, markdown(rows, what, facts), record, summary)
    return int(summary["differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
