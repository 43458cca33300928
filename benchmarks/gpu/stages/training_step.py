"""Stage d: a step of quantized training beside plain bfloat16, torch's own, and compiled ones."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import forms
from benchmarks.gpu.stages.forms import GRAPHED, Form
from benchmarks.harness import methods, shapes
from benchmarks.harness.kernel_times import kernel_times
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.timing import Times, interleave
from benchmarks.qat.networks import COMPILED_QAT, DEPTHWISE, OURS, PLAIN, RECOMPUTE, SILU, Size

TABLE, KERNELS = "Steps", "kernels ms"
COLUMNS = ("ms", "x SiLU", "saved MiB", "peak MiB", "peak, x SiLU")
# What takes turns. The kernels of a part's first group are counted after all of its groups are
# timed, as the profiler stays in the process; a graph runs the kernels of the form it was made of.
# The compiled ones come last: each may take the rest of the stage's time.
PARTS = (
    ((SILU, OURS, DEPTHWISE, RECOMPUTE), (SILU, *GRAPHED.values())),
    ((SILU, PLAIN),),
    ((SILU, "torch-fused"),),
    ((SILU, "plain-compiled"),),
    ((SILU, COMPILED_QAT),),
)
GROUPS = tuple(group for part in PARTS for group in part)
SPEED, MEMORY = "qat_step_vs_plain_bf16", "qat_memory_vs_plain_bf16"
# Both figures are of one form.
FIGURED = DEPTHWISE


@dataclass(frozen=True)
class Weight:
    """The memory of one form in MiB; what cannot be measured is None."""

    saved: float | None
    peak: float | None


def measure(settings: Settings, record: Record) -> None:
    """Time and weigh every form; the figures are of one of ours over plain with torch's own SiLU.

    That is the faster of the two plain networks.
    """
    size = size_of(settings)
    record.note(f"{size.arch}, batch {size.batch} at {size.side} pixels, autocast {size.amp}.")
    memory: dict[str, Weight] = {}
    for number, part in enumerate(PARTS, 1):
        ready = [time_group(group, size, settings, record, memory) for group in part]
        # Graphs go, and their memory.
        del ready[1:]
        gc.collect()
        if number == 1:
            record.note(note_of_speed(record.found.tables[TABLE]))
        if size.device != "cpu":
            add_kernels(part[0], ready[0], record)
        ready.clear()
        gc.collect()
    for name in dict.fromkeys(name for group in GROUPS for name in group):
        record.note(f"`{name}`: {forms.what(name)}, in bfloat16 where autocast makes it so.")


def time_group(
    group: tuple[str, ...],
    size: Size,
    settings: Settings,
    record: Record,
    memory: dict[str, Weight],
) -> dict[str, Form]:
    """Time the forms of a group in turn, a row each; return those that are ready."""
    ready = prepare(group, size, settings, record)
    if list(ready) == [SILU] and group is not GROUPS[0]:
        return {}
    for name, form in ready.items():
        if name not in memory:
            memory[name] = Weight(*forms.weigh(name, form, size.device))
    # Every form has taken a step by now, which is warm enough where no time is looked at.
    rounds, warmup = (2, 0) if settings.quick else (7, 1)
    times = interleave(ready, rounds, warmup, methods.wait_for(size.device))
    for name in times:
        numbered = {"group": GROUPS.index(group) + 1, "form": name}
        cells = numbers(name, times, memory)
        record.row(TABLE, {**numbered, KERNELS: None, **cells})
    if FIGURED in group or GRAPHED[FIGURED] in group:
        record_figures(record)
    return ready


def numbers(
    name: str, times: Mapping[str, Times], memory: Mapping[str, Weight]
) -> dict[str, float | str | None]:
    """Return the cells of one form; over plain with SiLU where that was measured, too."""
    took, weight = times[name].median, memory[name]
    plain = memory[SILU].peak if SILU in memory else None
    values = (
        1e3 * took,
        took / times[SILU].median if SILU in times else None,
        weight.saved,
        weight.peak,
        weight.peak / plain if plain and weight.peak is not None else None,
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "note": ""}


# Figures ----------------------------------------------------------------------------------------


def record_figures(record: Record) -> None:
    """Take the figures from the rows so far: called or as a graph, and the memory of its calls."""
    rows = record.found.tables[TABLE]
    ours = next(row for row in rows if row["form"] == FIGURED)
    speeds = [row["x SiLU"] for row in rows if row["form"] in (FIGURED, GRAPHED[FIGURED])]
    known = [speed for speed in speeds if speed is not None]
    for name, value in (
        (SPEED, min(known, default=None)),
        (MEMORY, ours["peak, x SiLU"]),
    ):
        if value is None:
            record.missing(name, ours["note"] or "plain was not measured: see the table")
        else:
            record.figure(name, round(value, 3))


def note_of_speed(rows: list[dict[str, Any]]) -> str:
    """Return which form the figure of the step is, and how graphs compare with each other."""
    took = {row["form"]: row["ms"] for row in rows if row["ms"] is not None}
    share = {row["form"]: row["x SiLU"] for row in rows if row["x SiLU"] is not None}
    ours = [name for name in (FIGURED, GRAPHED[FIGURED]) if name in share]
    if not ours:
        return "No form of ours was compared with plain: see the table."
    text = f"Figures: `{min(ours, key=share.__getitem__)}` over `{SILU}` called eagerly."
    graphs = GRAPHED[FIGURED], GRAPHED[SILU]
    if all(name in took for name in graphs):
        return f"{text} Graph over graph: {took[graphs[0]] / took[graphs[1]]:.3f}."
    return f"{text} Graphs were not compared: see the table."


def add_kernels(group: tuple[str, ...], ready: Mapping[str, Form], record: Record) -> None:
    """Put the time of the device's kernels in one step into the rows of a group."""
    for name, form in ready.items():
        try:
            took = sum(kernel.ms for kernel in kernel_times(form, "cuda"))
        except Exception as error:  # of whatever kind the profiler fails with
            record.note(f"The kernels of `{name}` were not counted: {methods.reason(error)}")
            continue
        rows = record.found.tables[TABLE]
        mine = {"group": GROUPS.index(group) + 1, "form": name}
        record.table(
            TABLE,
            [{**row, KERNELS: took} if mine.items() <= row.items() else row for row in rows],
        )


# Forms ------------------------------------------------------------------------------------------


def size_of(settings: Settings) -> Size:
    """Return the network and batch: EfficientNet-B1 at 256 images, or a tiny one."""
    if settings.quick:
        return Size("efficientnet-micro", 2, 32, settings.device, "bf16")
    return Size(shapes.ARCH, 256, shapes.SIDE, settings.device, "bf16")


def prepare(
    group: tuple[str, ...], size: Size, settings: Settings, record: Record
) -> dict[str, Form]:
    """Build the forms of a group; what is not available here is a row that says why."""
    ready = {}
    for name in group:
        try:
            if settings.quick and forms.is_compiled(name):
                raise Unavailable("not compiled: --quick")
            ready[name] = forms.build(name, size)
        except Unavailable as error:
            row = {"group": GROUPS.index(group) + 1, "form": name, KERNELS: None}
            record.row(TABLE, {**row, **dict.fromkeys(COLUMNS), "note": str(error)})
    return ready
