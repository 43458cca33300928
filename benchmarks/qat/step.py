"""``make bench-qatstep``: a training step in few bits on the CPU beside what else one could take.

Times are of one process for each allocator, memory of one for each form, the layers of one more;
glibc reads the variables of its malloc when a process starts. Writes every row with the machine
and versions under ``benchmarks/results/`` and ends with one RESULT line of ratios, ours over
theirs.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.harness import machine, report, shapes
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.timing import Times, interleave
from benchmarks.kernels.fake_quant import ALLOCATORS
from benchmarks.qat import layers as qat_layers
from benchmarks.qat import memory as qat_memory
from benchmarks.qat import networks as qat_networks
from benchmarks.qat import report as qat_report
from benchmarks.qat.layers import LayerRow
from benchmarks.qat.networks import (
    COMPILED_QAT,
    EIGHT,
    LEARNED,
    MIXED,
    OFFSET,
    OURS,
    PLAIN,
    RECOMPUTE,
    SILU,
    SYMMETRIC,
    VARIANTS,
    Size,
)
from benchmarks.qat.report import MemoryRow, Results, StepRow

# What takes turns. The float network with torch's own SiLU, the best plain form that a user has,
# is in every group, and ratios are over it. Peers stand beside it alone, which bounds the memory of
# the process; ours beside the compiled ones as well, because a headline compares them.
GROUPS = (
    (SILU, PLAIN, OURS, EIGHT, SYMMETRIC, MIXED, LEARNED, OFFSET, RECOMPUTE),
    (SILU, "distiller"),
    (SILU, "torch-fused"),
    (SILU, "torch-fx"),
    (SILU, OURS, "plain-compiled", COMPILED_QAT),
)
ROUNDS, WARMUP, LAYER_ROUNDS = 5, 2, 21
NOT_COMPILED = "not measured: give --compile"
MIB = 2**20


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    part: str
    names: list[str]
    arch: str
    batch: int
    side: int
    rounds: int
    threads: int
    compiles: bool
    quick: bool
    allocator: str = "warm"

    @property
    def size(self) -> Size:
        """The network and its images."""
        return Size(self.arch, self.batch, self.side)


# In the process that measures -------------------------------------------------------------------


def groups(names: Sequence[str], compiles: bool) -> list[tuple[str, ...]]:
    """Return what takes turns, of the forms that are wanted; a group needs more than the base."""
    found = []
    for group in GROUPS:
        compiled = any(VARIANTS[name].compiled for name in group)
        wanted = tuple(name for name in group if name in names)
        if compiled:
            others = [name for name in wanted if VARIANTS[name].compiled]
            # Without them the base and ours have been measured already.
            wanted = (wanted if compiles else tuple(others)) if others else ()
        if wanted and (wanted != (SILU,) or not found):
            found.append(wanted)
    return found


def time_steps(job: Job) -> list[StepRow]:
    """Time the steps of every group in this process."""
    rows = []
    for number, group in enumerate(groups(job.names, job.compiles), 1):
        rows += _time_group(job, number, group)
        gc.collect()
    return rows


def _time_group(job: Job, number: int, group: Sequence[str]) -> list[StepRow]:
    steps, notes = {}, {}
    for name in group:
        try:
            steps[name] = _ready(job, name)
        except Unavailable as error:
            notes[name] = str(error)
    times = interleave(steps, job.rounds, WARMUP)
    return [_step_row(job, number, name, times, notes.get(name, "")) for name in group]


def _is_left_out(job: Job, name: str) -> bool:
    return VARIANTS[name].compiled and not job.compiles


def _ready(job: Job, name: str) -> qat_networks.Training:
    if _is_left_out(job, name):
        raise Unavailable(NOT_COMPILED)
    training = qat_networks.build(name, job.size)
    qat_networks.compile_now(name, training)
    return training


def _step_row(job: Job, number: int, name: str, times: dict[str, Times], note: str) -> StepRow:
    if name not in times:
        return StepRow(job.allocator, number, name, None, None, None, None, note)
    took = times[name]
    ratio = took.median / times[SILU].median if SILU in times else None
    return StepRow(job.allocator, number, name, took.median, took.p10, took.p90, ratio)


def weigh_steps(job: Job) -> list[MemoryRow]:
    """Measure the memory of the one form of the job, which has the process to itself."""
    (name,) = job.names
    try:
        training = qat_networks.build(name, job.size)
        losses: list[torch.Tensor] = []

        def step() -> None:
            if not losses:
                qat_networks.compile_now(name, training)
            losses.append(training())

        peak = qat_memory.peak_above_start(step) / MIB
    except Unavailable as error:
        return [MemoryRow(name, None, None, None, str(error))]
    saved = None
    if not VARIANTS[name].compiled:
        saved = qat_memory.saved_bytes(training.loss, training.network.parameters()) / MIB
    return [MemoryRow(name, saved, peak, float(losses[-1]))]


def time_layers(job: Job) -> list[LayerRow]:
    """Time the convolutions of the network one by one."""
    rounds = 3 if job.quick else LAYER_ROUNDS
    copied = 1 << 16 if job.quick else qat_layers.COPIED
    return qat_layers.measure(job.arch, job.batch, job.side, rounds, copied)


PARTS = {
    "steps": (time_steps, StepRow),
    "memory": (weigh_steps, MemoryRow),
    "layers": (time_layers, LayerRow),
}


# In the process that asks -----------------------------------------------------------------------


def apart(job: Job) -> list:
    """Return the rows of a job, done in a new process with its allocator."""
    print(f"{job.part}, {job.allocator} allocator: {', '.join(job.names)}", file=sys.stderr)
    environment = {
        **os.environ,
        **ALLOCATORS[job.allocator],
        "OMP_NUM_THREADS": str(job.threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.qat.step", "--job", json.dumps(asdict(job))]
        command += ["--measure-into", str(answer)]
        subprocess.run(command, env=environment, check=True, cwd=machine.ROOT)
        said = json.loads(answer.read_text())
    return [PARTS[job.part][1](**row) for row in said]


def measure(job: Job, with_layers: bool) -> Results:
    """Do all parts, one process after the other."""
    steps: list[StepRow] = []
    memory: list[MemoryRow] = []
    if job.names:
        for allocator in ALLOCATORS:
            steps += apart(replace(job, part="steps", allocator=allocator))
    for name in job.names:
        if _is_left_out(job, name):
            memory.append(MemoryRow(name, None, None, None, NOT_COMPILED))
        else:
            memory += apart(replace(job, part="memory", names=[name]))
    layers = apart(replace(job, part="layers", names=[])) if with_layers else []
    what = f"{job.arch}, batch {job.batch} at {job.side}x{job.side}, {job.threads} threads"
    facts = {**machine.describe(), "torch threads": str(job.threads)}
    return Results(what, steps, memory, layers, facts)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--compile", action="store_true", help="compiled forms too: minutes each")
    parser.add_argument("--layers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help=f"timed rounds, {ROUNDS} unless told")
    parser.add_argument("--arch", help=f"{shapes.ARCH} unless told")
    parser.add_argument("--quick", action="store_true", help="tiny: efficientnet-b0 at 32x32")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--measure-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 2:
        parser.error(f"--rounds is {args.rounds}, but a median needs at least 2")
    return args


def job_of(args: argparse.Namespace) -> Job:
    """Return what the arguments ask for."""
    quick = args.quick
    return Job(
        part="",
        names=[name for name in VARIANTS if name in args.variants],
        arch=args.arch or ("efficientnet-b0" if quick else shapes.ARCH),
        batch=2 if quick else shapes.BATCH,
        side=32 if quick else shapes.SIDE,
        rounds=args.rounds or (2 if quick else ROUNDS),
        threads=args.threads,
        compiles=args.compile,
        quick=quick,
    )


def main(argv: list[str] | None = None) -> int:
    """Measure every part, print and write the tables, and end with the RESULT line."""
    args = parse(argv)
    if args.measure_into is not None:
        job = Job(**json.loads(args.job))
        torch.set_num_threads(job.threads)
        rows = PARTS[job.part][0](job)
        args.measure_into.write_text(json.dumps([asdict(row) for row in rows]))
        return 0
    results = measure(job_of(args), args.layers)
    print(qat_report.write(args.out, results, ALLOCATORS))
    print("RESULT " + json.dumps(qat_report.summarize(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
