"""Stage d: a step of quantized training beside plain bfloat16, torch's own, and compiled ones."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness import methods, shapes
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.timing import Times, interleave
from benchmarks.qat import memory as qat_memory
from benchmarks.qat import networks as qat_networks
from benchmarks.qat.networks import COMPILED_QAT, OURS, PLAIN, RECOMPUTE, SILU, VARIANTS, Size

TABLE, MIB = "Steps", 2**20
COLUMNS = ("ms", "x SiLU", "saved MiB", "peak MiB", "peak, x SiLU")
# What takes turns, the compiled ones one by one: each may take the rest of the stage's time.
GROUPS = (
    (SILU, PLAIN, OURS, RECOMPUTE),
    (SILU, "torch-fused"),
    (SILU, "plain-compiled"),
    (SILU, COMPILED_QAT),
)


@dataclass(frozen=True)
class Weight:
    """The memory of one form in MiB; what cannot be measured is None."""

    saved: float | None
    peak: float


def measure(settings: Settings, record: Record) -> None:
    """Time and weigh every form; the figures are ours over plain with torch's own SiLU.

    That is the faster of the two plain networks.
    """
    size = size_of(settings)
    record.note(f"{size.arch}, batch {size.batch} at {size.side} pixels, autocast {size.amp}.")
    memory: dict[str, Weight] = {}
    for number, group in enumerate(GROUPS, 1):
        ready = prepare(group, size, settings, record)
        if number > 1 and list(ready) == [SILU]:
            continue
        for name, training in ready.items():
            if name not in memory:
                memory[name] = weigh(name, training, size.device)
        rounds = 2 if settings.quick else 7
        times = interleave(ready, rounds, 1, methods.wait_for(size.device))
        for name in times:
            record.row(TABLE, {"group": number, "form": name, **numbers(name, times, memory)})
        if number == 1:
            record_figures(record)
        ready.clear()
        gc.collect()
    for name in dict.fromkeys(name for group in GROUPS for name in group):
        record.note(f"`{name}`: {VARIANTS[name].what}, in bfloat16 where autocast makes it so.")


def numbers(
    name: str, times: Mapping[str, Times], memory: Mapping[str, Weight]
) -> dict[str, float | str | None]:
    """Return the cells of one form; over plain with SiLU where that was measured, too."""
    took, weight = times[name].median, memory[name]
    plain = memory[SILU].peak if SILU in memory else 0
    values = (
        1e3 * took,
        took / times[SILU].median if SILU in times else None,
        weight.saved,
        weight.peak,
        weight.peak / plain if plain else None,
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "note": ""}


def record_figures(record: Record) -> None:
    """Take the figures from the first row of ours."""
    rows = record.found.tables[TABLE]
    ours = next(row for row in rows if row["form"] == OURS)
    for name, column in (
        ("qat_step_vs_plain_bf16", "x SiLU"),
        ("qat_memory_vs_plain_bf16", "peak, x SiLU"),
    ):
        if ours[column] is None:
            record.missing(name, ours["note"] or "plain was not measured: see the table")
        else:
            record.figure(name, round(ours[column], 3))


def size_of(settings: Settings) -> Size:
    """Return the network and batch: EfficientNet-B1 at 256 images, or a tiny one."""
    if settings.quick:
        return Size("efficientnet-micro", 2, 32, settings.device, "bf16")
    return Size(shapes.ARCH, 256, shapes.SIDE, settings.device, "bf16")


def prepare(
    group: tuple[str, ...], size: Size, settings: Settings, record: Record
) -> dict[str, qat_networks.Training]:
    """Build the forms of a group; what is not available here is a row that says why."""
    ready = {}
    for name in group:
        try:
            if settings.quick and VARIANTS[name].compiled:
                raise Unavailable("not compiled: --quick")
            build = partial(qat_networks.build, name, size)
            ready[name] = methods.tried(build, size.device)
        except Unavailable as error:
            row = {"group": GROUPS.index(group) + 1, "form": name, **dict.fromkeys(COLUMNS)}
            record.row(TABLE, {**row, "note": str(error)})
    return ready


def weigh(name: str, training: qat_networks.Training, device: str) -> Weight:
    """Measure the memory of two steps, and of what a forward pass keeps."""
    peak_of = qat_memory.peak_above_start if device == "cpu" else qat_memory.peak_on_device
    peak = peak_of(training) / MIB
    if VARIANTS[name].compiled:
        return Weight(None, peak)
    saved = qat_memory.saved_bytes(training.loss, training.network.parameters()) / MIB
    training.optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.empty_cache()
    return Weight(saved, peak)
