"""Rows of what took turns, their ratios, the headline figures, and the page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.engine import settings
from benchmarks.engine.settings import B1, LITERT, OPENVINO, OURS, Setting
from benchmarks.engine.turns import Timed
from benchmarks.harness import report

STEM = "engine_cpu"


@dataclass(frozen=True)
class Row:
    """One engine in a setting; without a time, the note says why."""

    network: str
    threads: int
    batch: int
    engine: str
    bits: str
    version: str
    ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    least_ms: float | None
    processor_ms: float | None
    runs: int
    note: str = ""

    @property
    def setting(self) -> Setting:
        """Where it took turns."""
        return Setting(self.network, self.threads, self.batch)


def row_of(timed: Timed) -> Row:
    """Return the row of the runs of one engine."""
    job, seconds = timed.job, timed.seconds
    where = job.setting
    about = (where.network, where.threads, where.batch, job.engine, job.bits, timed.version)
    if not seconds:
        return Row(*about, *[None] * 5, 0, timed.note)
    tenths = quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else seconds
    times = (median(seconds), tenths[0], tenths[-1], min(seconds), median(timed.processor))
    return Row(*about, *(round(1e3 * each, 4) for each in times), len(seconds), timed.note)


def not_measured(jobs: Sequence[settings.Job], why: str) -> list[Row]:
    """Return the rows of a setting that this process cannot have."""
    return [row_of(Timed(job, note=why)) for job in jobs]


def ratio(rows: Sequence[Row], setting: Setting, engine: str, bits: str) -> float | None:
    """Return a peer's time over that of ours of some bits, in the same turns; above 1 ours is less.

    None where either has no time.
    """
    found = {(row.engine, row.bits): row.ms for row in rows if row.setting == setting}
    ours = found.get((OURS, bits))
    theirs = [ms for (name, _), ms in found.items() if name == engine and engine != OURS]
    if ours is None or not theirs or theirs[0] is None:
        return None
    return theirs[0] / ours


def summarize(
    rows: Sequence[Row], made: Mapping[str, object], process: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Return the headline figures, all of B1 at 4 bits; None: not measured."""
    one, two = Setting(B1, 1, 1), Setting(B1, 2, 8)
    ours = [row.ms for row in rows if row.setting == one and row.engine == OURS]
    b1 = made.get(B1, {}).get("forms", {}).get("4/4", {})
    ratios = {
        "b1_t1_vs_litert": ratio(rows, one, LITERT, "4/4"),
        "b1_t1_vs_openvino": ratio(rows, one, OPENVINO, "4/4"),
        "b8_t2_vs_litert": ratio(rows, two, LITERT, "4/4"),
        "b8_t2_vs_openvino": ratio(rows, two, OPENVINO, "4/4"),
    }
    return {
        "b1_t1_ms": ours[0] if ours else None,
        **{name: None if value is None else round(value, 3) for name, value in ratios.items()},
        "payload_bits": b1.get("payload_bits"),
        "scored_bits": b1.get("scored_bits"),
        "load_ms": process.get("load_ms"),
        "resident_mb": process.get("resident_mb"),
    }


# The page ---------------------------------------------------------------------------------------

NAMES = {
    settings.LITERT: "LiteRT, XNNPACK",
    settings.OPENVINO: "OpenVINO",
    settings.ONNXRUNTIME: "onnxruntime",
    settings.TORCH: "torch, eager",
    settings.CHANNELS_LAST: "torch, eager, channels last",
    settings.COMPILED: "torch, compiled and frozen, channels last",
}
ABOUT = (
    "Made by `make bench-engine`. Each engine has a process of its own; those of a table take "
    "turns, round by round, after runs that are not timed. ms: median of all timed runs, for the "
    "whole batch. Processor: the same of the time that its threads had a core, all together; on "
    "one thread it is less than ms where other work had the core. `x ours`: its time over that of "
    "ours with so many bits of weights and inputs, in the same turns; above 1 ours takes less "
    "time. The memory of glibc is kept warm for all. Ours, torch, OpenVINO and onnxruntime are "
    "given float32 images; LiteRT is given bytes and gives bytes. Weights are random, ranges and "
    "statistics those of random images: this does not change the time. Our EfficientNet-B1 is "
    "pruned and in 4 bits by the schedules of the 2019 entry; our other networks are dense. LiteRT "
    "has the networks of Keras, full integer quantization by TensorFlow's converter; OpenVINO "
    "NNCF's, onnxruntime its own static one (QDQ, U8S8, per channel)."
)
FIGURES = (
    "`b1_t1`: EfficientNet-B1, one thread, one image. `b8_t2`: EfficientNet-B1, two threads, eight "
    "images. `payload_bits`: of the file's tensors; `scored_bits`: what the challenge counts. "
    "`load_ms`: a process of `micronet-run` that opens the file, prints its shapes and ends, from "
    "start to end. `resident_mb`: the most memory of one that runs single images, in MiB."
)


def number(value: float | None, digits: int) -> str:
    """Return a number as a cell, empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a table whose first columns are text and whose others are numbers."""
    rule = ["---"] * texts + ["--:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def _table(rows: Sequence[Row]) -> str:
    setting = rows[0].setting
    forms = [row.bits for row in rows if row.engine == OURS]
    head = [
        "engine",
        "bits",
        "ms",
        "p10-p90",
        "least",
        "processor",
        *(f"x ours {bits}" for bits in forms),
    ]
    lines = []
    for row in rows:
        spread = "" if row.ms is None else f"{row.p10_ms:.2f}-{row.p90_ms:.2f}"
        factors = [number(ratio(rows, setting, row.engine, bits), 2) for bits in forms]
        name = f"{NAMES.get(row.engine, row.engine)} {row.version}".strip()
        if row.note:
            name += f" ({row.note})"
        times = [number(row.ms, 2), spread, number(row.least_ms, 2), number(row.processor_ms, 2)]
        lines.append([name, row.bits, *times, *factors])
    return grid(head, lines, 2)


def markdown(
    rows: Sequence[Row], summary: Mapping[str, float | None], facts: Mapping[str, str]
) -> str:
    """Return the whole page."""
    figures = [f"- {name}: {value}" for name, value in summary.items()]
    parts = ["# The engine beside int8 engines, on the CPU", ABOUT, "\n".join(figures), FIGURES]
    for setting in dict.fromkeys(row.setting for row in rows):
        threads = "one thread" if setting.threads == 1 else f"{setting.threads} threads"
        parts.append(f"## {setting.network}, {threads}, batch {setting.batch}")
        parts.append(_table([row for row in rows if row.setting == setting]))
    return "\n\n".join([*parts, report.facts(facts)]) + "\n"
