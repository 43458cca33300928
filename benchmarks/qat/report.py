"""The rows of the training steps, their tables, and the headline figures."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import report
from benchmarks.qat import layers as qat_layers
from benchmarks.qat.layers import LayerRow
from benchmarks.qat.networks import (
    COMPILED_QAT,
    EIGHT,
    LEARNED,
    OURS,
    PLAIN,
    RECOMPUTE,
    SILU,
    VARIANTS,
)

STEM = "qat_step_cpu"


@dataclass(frozen=True)
class StepRow:
    """The time of one form beside the others of its group; without it, the note says why."""

    allocator: str
    group: int
    variant: str
    seconds: float | None
    p10: float | None
    p90: float | None
    ratio: float | None  # over the time of plain-silu in the same rounds
    note: str = ""


@dataclass(frozen=True)
class MemoryRow:
    """What one form keeps; without it, the note says why."""

    variant: str
    saved_mib: float | None
    peak_mib: float | None
    loss: float | None
    note: str = ""


@dataclass(frozen=True)
class Results:
    """All that one run of the command found."""

    what: str
    steps: list[StepRow]
    memory: list[MemoryRow]
    layers: list[LayerRow]
    machine: dict[str, str]


def summarize(results: Results) -> dict[str, float | None]:
    """Return the headline figures, ours over theirs, of the warm allocator; None: not measured."""
    memory = {row.variant: row for row in results.memory}

    def kept(variant: str, field: str) -> float | None:
        values = [getattr(memory[name], field) for name in (variant, PLAIN) if name in memory]
        return _over(*values) if len(values) == 2 else None

    return {
        "step_vs_plain_silu": _step_over(results.steps, SILU),
        "step_vs_compiled": _step_over(results.steps, "plain-compiled"),
        "step_vs_compiled_qat": _step_over(results.steps, COMPILED_QAT),
        "saved_4_4": kept(OURS, "saved_mib"),
        "saved_8_8": kept(EIGHT, "saved_mib"),
        "saved_lsq": kept(LEARNED, "saved_mib"),
        "saved_recompute": kept(RECOMPUTE, "saved_mib"),
        "rss_vs_plain": kept(OURS, "peak_mib"),
    }


def _over(mine: float | None, theirs: float | None) -> float | None:
    return None if mine is None or not theirs else round(mine / theirs, 3)


def _step_over(steps: Sequence[StepRow], peer: str) -> float | None:
    """Compare within the first group of the warm allocator that has both."""
    found = {(row.group, row.variant): row.seconds for row in steps if row.allocator == "warm"}
    for group in sorted({group for group, _ in found}):
        mine, theirs = found.get((group, OURS)), found.get((group, peer))
        if mine is not None and theirs is not None:
            return _over(mine, theirs)
    return None


# Tables -----------------------------------------------------------------------------------------


def _number(value: float | None, digits: int, times: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{value * times:.{digits}f}{unit}"


def _name(variant: str, note: str) -> str:
    return f"{variant} ({note})" if note else variant


def _spread(row: StepRow) -> str:
    return "" if row.p10 is None else f"{row.p10:.3f}-{row.p90:.3f}"


# Heading and the cell of a row; all but the first column are numbers.
_STEP: dict[str, Callable[[StepRow], str]] = {
    "form": lambda row: _name(row.variant, row.note),
    "s": lambda row: _number(row.seconds, 3),
    "p10-p90": _spread,
    "x plain-silu": lambda row: _number(row.ratio, 2),
}
_LAYER: dict[str, Callable[[LayerRow], str]] = {
    "layer": lambda row: f"{row.site} (x{row.count})",
    "ms": lambda row: _number(row.ms, 3),
    "torch ms": lambda row: _number(row.torch_ms, 3),
    "x torch": lambda row: _number(row.ratio, 2),
    "GMAC/s": lambda row: _number(row.gmac_per_s, 1),
    "torch GMAC/s": lambda row: _number(row.torch_gmac_per_s, 1),
    "GB/s": lambda row: _number(row.gb_per_s, 1),
    "of copy": lambda row: _number(row.share_of_copy, 0, 100, " %"),
}


def _table(columns: Mapping[str, Callable], rows: Sequence) -> list[str]:
    rule = ["---", *["--:"] * (len(columns) - 1)]
    lines = [list(columns), rule, *([cell(row) for cell in columns.values()] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _step_tables(results: Results) -> list[str]:
    text = []
    for allocator in dict.fromkeys(row.allocator for row in results.steps):
        rows = [row for row in results.steps if row.allocator == allocator]
        text += [f"## One step, {allocator} allocator", ""]
        for group in dict.fromkeys(row.group for row in rows):
            text += _table(_STEP, [row for row in rows if row.group == group])
    return text


def _memory_table(results: Results) -> list[str]:
    if not results.memory:
        return []
    plain = next((row for row in results.memory if row.variant == PLAIN), None)

    def over(field: str) -> Callable[[MemoryRow], str]:
        theirs = plain and getattr(plain, field)
        return lambda row: _number(_over(getattr(row, field), theirs), 2)

    columns: dict[str, Callable[[MemoryRow], str]] = {
        "form": lambda row: _name(row.variant, row.note),
        "saved MiB": lambda row: _number(row.saved_mib, 1),
        "saved, x plain": over("saved_mib"),
        "peak MiB": lambda row: _number(row.peak_mib, 1),
        "peak, x plain": over("peak_mib"),
    }
    return ["## Memory, warm allocator", "", *_table(columns, results.memory)]


def _layer_tables(results: Results) -> list[str]:
    text = []
    for kind in (qat_layers.POINTWISE, qat_layers.DEPTHWISE):
        rows = [row for row in results.layers if row.kind == kind]
        if rows:
            text += [f"## Forward pass of {kind} layers, warm allocator", "", *_table(_LAYER, rows)]
    return text


_ABOUT = (
    "Made by `make bench-qatstep`. A step is forward, cross entropy, backward and SGD with "
    "momentum, channels last, without dropout. The forms of a table take turns in one process; s "
    "is the median of its rounds, `x plain-silu` the time over that of `plain-silu`, the best "
    "plain form that a user has, in the same rounds. Memory is of one process a "
    "form: bytes saved for backward (each storage once, parameters left out; of a compiled graph "
    "not measured), and the peak of resident memory over two steps above that before them, "
    "compiling included. Headlines are ours over theirs, warm allocator."
)
_ABOUT_LAYERS = (
    "Layers: `micronet.quant_conv2d` on 4-bit codes, the rounding of its weights included, beside "
    "torch's float32 `conv2d`, channels last, uneven padding added beforehand. GB/s counts half a "
    "byte an input and two an output element; of copy: that rate over the rate of a copy beyond "
    "all caches just before, which a layer that fits a cache may pass."
)


def markdown(results: Results) -> str:
    """Return the whole page."""
    headlines = [f"- {name}: {value}" for name, value in summarize(results).items()]
    forms = [
        f"- `{name}`: {VARIANTS[name].what}"
        for name in dict.fromkeys(row.variant for row in (*results.steps, *results.memory))
    ]
    text = [f"# A training step in few bits on the CPU: {results.what}", "", _ABOUT, ""]
    text += [*headlines, "", *forms, "", *_step_tables(results), *_memory_table(results)]
    if results.layers:
        text += [_ABOUT_LAYERS, "", *_layer_tables(results)]
    return "\n".join([*text, report.facts(results.machine)]) + "\n"


def write(folder: Path, results: Results, allocators: Mapping[str, Mapping[str, str]]) -> str:
    """Write Markdown and JSON, each whole or not at all; return the Markdown."""
    text = markdown(results)
    record = {"summary": summarize(results), "allocators": allocators, **asdict(results)}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=STEM, suffix=".tmp") as beside:
        report.write(Path(beside), STEM, text, record)
        for path in Path(beside).iterdir():
            os.replace(path, folder / path.name)
    return text
