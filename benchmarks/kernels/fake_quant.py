"""``make bench-fakequant``: fake quantization on the CPU beside everything else a user could take.

Each setting, an allocator and a number of threads, is a process of its own, because glibc reads
the variables of its malloc when it starts. Writes every row with the machine and versions under
``benchmarks/results/`` and ends with one RESULT line: ratios are the time of a peer over ours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import machine, ours, report, shapes
from benchmarks.harness.methods import FORWARD, Row, measure
from benchmarks.harness.timing import ROUNDS, WARMUP
from benchmarks.kernels import activation, weights
from micronet_kernels.backends import native

STEM = "fake_quant_cpu"
# "default" maps each large tensor anew and pays its page faults; "warm" reuses memory, as a
# training run with a tuned malloc does.
ALLOCATORS = {
    "default": {},
    "warm": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"},
}
SIZES = (1 << 24, 1 << 26)
QUICK_SIZES = (1 << 14, 1 << 15)
# The forms of a peer that the headline takes the fastest of.
COMPILED = (activation.COMPILED, activation.COMPILED_APART)
IN_PLACE = (activation.IN_PLACE, activation.PASSED_ON)
# Of a tensor of so many elements: sixteen images of 64 channels.
IMAGES, CHANNELS = 16, 64


@dataclass(frozen=True)
class Settings:
    """What one run of the command measures."""

    threads: list[int]
    sizes: list[int]
    backend: str
    quick: bool
    out: Path


@dataclass(frozen=True)
class Table:
    """The rows of one process."""

    allocator: str
    threads: int
    rows: list[Row]
    kept_mib: float  # of freed outputs that our operators hold on to


def shape_of(elements: int) -> shapes.Shape:
    """Return the shape of an activation of so many elements; ValueError where none has."""
    if elements <= 0 or elements % (IMAGES * CHANNELS):
        raise ValueError(f"{elements} elements are no multiple of {IMAGES * CHANNELS}")
    return IMAGES, CHANNELS, elements // (IMAGES * CHANNELS)


def measure_here(settings: Settings) -> list[Row]:
    """Time every method in this process, at its first number of threads."""
    torch.set_num_threads(settings.threads[0])
    rounds = {"rounds": 3 if settings.quick else ROUNDS, "warmup": WARMUP}
    rows = []
    for elements in settings.sizes:
        shape = shape_of(elements)
        methods = [
            *activation.our_methods(shape, "cpu", settings.backend),
            *activation.torch_methods(shape, "cpu"),
            *activation.other_methods(shape, "cpu", with_compiled=not settings.quick),
        ]
        rows += measure(activation.group(shape, "cpu", methods), **rounds)
        activation.inputs.cache_clear()
    layers = shapes.weights()[:8] if settings.quick else shapes.weights()
    return rows + measure(weights.group(layers, "cpu", [settings.backend]), **rounds)


def measure_apart(settings: Settings, allocator: str, threads: int) -> Table:
    """Time every method in a new process with its allocator and number of threads."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernels.fake_quant",
        "--threads",
        str(threads),
        "--backend",
        settings.backend,
    ]
    command += ["--sizes", *map(str, settings.sizes), *(["--quick"] if settings.quick else [])]
    environment = {**os.environ, **ALLOCATORS[allocator], "OMP_NUM_THREADS": str(threads)}
    print(f"{allocator} allocator, {threads} threads", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rows.json"
        command += ["--measure-into", str(answer)]
        subprocess.run(command, env=environment, check=True, cwd=machine.ROOT)
        said = json.loads(answer.read_text())
    return Table(allocator, threads, [Row(**row) for row in said["rows"]], said["kept_mib"])


def kept_mib() -> float:
    """Return how much freed memory our operators hold on to at the moment."""
    if not native.TABLE:
        return 0.0
    from micronet_kernels import _C

    return _C.kept_buffer_bytes() / 2**20


# The RESULT line --------------------------------------------------------------------------------


def summarize(tables: Sequence[Table], threads: int, saved: float) -> dict[str, float | None]:
    """Return the headline figures at one number of threads, the worst over sizes of each.

    Where no allocator is named they are of the warm one; that of the weights is the worse of the
    two. A figure that was not measured is None.
    """

    def worst(
        labels: Sequence[str], allocators: Sequence[str], value: Callable[[Row], float | None]
    ) -> float | None:
        found = [
            value(row)
            for table in tables
            if table.allocator in allocators and table.threads == threads
            for row in table.rows
            if row.label in labels and row.dtype == "float32"
        ]
        return round(min(found), 3) if found and None not in found else None

    def ratio(labels: Sequence[str], allocator: str) -> float | None:
        return worst(labels, [allocator], lambda row: row.ratio)

    def forward(row: Row) -> float | None:
        return row.ratio if row.direction == FORWARD else float("inf")

    return {
        "act_fb_vs_torch_fused_warm": ratio([activation.TORCH_FUSED], "warm"),
        "act_fb_vs_torch_fused_default": ratio([activation.TORCH_FUSED], "default"),
        "act_fb_share_of_copy": worst([activation.EXACT], ["warm"], lambda row: row.share_of_copy),
        "act_fb_vs_compile": ratio(COMPILED, "warm"),
        "act_fb_vs_eager_inplace": ratio(IN_PLACE, "warm"),
        "weight_b1_vs_torch": worst([weights.TORCH_GIVEN], list(ALLOCATORS), forward),
        "saved_bytes_per_element": round(saved, 4),
    }


def to_markdown(
    tables: Sequence[Table], summary: dict[str, float | None], facts: dict[str, str]
) -> str:
    """Return the whole report."""
    text = [
        "# Fake quantization on the CPU: 16 levels, training steps of activations and weights",
        "Made by `make bench-fakequant`. All methods of a table take turns in one process on the "
        "same tensors; a step ends with its output and its gradient freed. Share of the copy and "
        "ratios without an allocator in their name are of the warm one, that of the weights is the "
        "worse of the two, all of the worse size; a peer in several forms counts as its fastest. "
        + report.LEGEND,
        "Allocator `default`: the environment as it is. `warm`: `"
        + " ".join(f"{name}={value}" for name, value in ALLOCATORS["warm"].items())
        + "`. Our operators keep large buffers of freed outputs in either.",
        "\n".join(f"- {name}: {value}" for name, value in summary.items()),
    ]
    for table in tables:
        text.append(
            f"## {table.threads} thread{'s' * (table.threads != 1)}, {table.allocator} allocator"
        )
        text.append(f"Buffers kept by our operators at the end: {table.kept_mib:.0f} MiB.")
        for shape in dict.fromkeys(row.shape for row in table.rows):
            text.append(report.markdown([row for row in table.rows if row.shape == shape]))
    return "\n\n".join([*text, report.facts(facts)]) + "\n"


def to_record(
    tables: Sequence[Table], summary: dict[str, float | None], facts: dict[str, str]
) -> dict[str, object]:
    """Return the report as plain data, one entry for each row."""
    rows = [
        {"allocator": table.allocator, "threads": table.threads, **row.as_dict()}
        for table in tables
        for row in table.rows
    ]
    kept = [
        {"allocator": t.allocator, "threads": t.threads, "kept_mib": t.kept_mib} for t in tables
    ]
    return {
        "summary": summary,
        "machine": facts,
        "allocators": ALLOCATORS,
        "kept_buffers": kept,
        "rows": rows,
    }


def parse(argv: list[str] | None) -> tuple[Settings, Path | None]:
    """Return the settings, and where one process of the measurement leaves its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="first: headline")
    parser.add_argument("--sizes", type=int, nargs="+", help="elements of the activations")
    parser.add_argument("--backend", default=ours.backends("fake_quant_per_tensor", "cpu")[0])
    parser.add_argument("--quick", action="store_true", help="tiny, and nothing is compiled")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--measure-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sizes = args.sizes or list(QUICK_SIZES if args.quick else SIZES)
    settings = Settings(args.threads, sizes, args.backend, args.quick, args.out)
    return settings, args.measure_into


def main(argv: list[str] | None = None) -> int:
    """Measure every setting, print and write the tables, and end with the RESULT line."""
    settings, answer = parse(argv)
    if answer is not None:
        rows = [row.as_dict() for row in measure_here(settings)]
        answer.write_text(json.dumps({"rows": rows, "kept_mib": kept_mib()}))
        return 0
    tables = [
        measure_apart(settings, allocator, threads)
        for threads in settings.threads
        for allocator in ALLOCATORS
    ]
    saved = ours.saved_bytes_per_element(settings.backend, 1 << 16)
    summary = summarize(tables, settings.threads[0], saved)
    # Every table names its own number of threads.
    facts = {name: value for name, value in machine.describe().items() if name != "torch threads"}
    text = to_markdown(tables, summary, facts)
    report.publish(settings.out, STEM, text, to_record(tables, summary, facts), summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
