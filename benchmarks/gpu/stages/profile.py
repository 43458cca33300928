"""Stage g: which kernels a training step spends its time in, and ncu's counters of five of them.

As a program it is what ncu looks at: the first blocks of the network, there and back.
"""

import csv
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages.training_step import size_of
from benchmarks.harness.kernel_times import kernel_times
from benchmarks.harness.machine import ROOT
from benchmarks.qat import networks as qat_networks
from micronet.training.optimizer import autocast

TIMES, COUNTERS = "Kernels of a step", "Counters"
# Rows of the table: kernels that take at least this share of a step, and so many of them.
LEAST_SHARE, MOST_ROWS = 0.002, 60
COSTLIEST, MOST_LAUNCHES = 5, 60
# Kernels of torch that are launched so often that ncu would see no other.
EVERYWHERE = "elementwise"
# Blocks that ncu looks at: images are largest there, and few launches show each kernel both ways.
COUNTED_BLOCKS = 3
# A smaller batch: ncu runs each launch several times, and saves what it writes each time.
COUNTED_BATCH = 32
# Seconds before the stage is killed: ncu is asked to end, given some, and read.
REST, GRACE = 8, 4
METRICS = {
    "gpu__time_duration.sum": "time",
    "dram__bytes.sum": "DRAM bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
    "launch__registers_per_thread": "registers",
}


def measure(settings: Settings, record: Record) -> None:
    """Profile a step, then let ncu count in the kernels that it names."""
    names = time_kernels(settings, record)
    if settings.device == "cpu":
        record.note("ncu was not run: there is no device.")
    elif shutil.which("ncu") is None:
        record.note("ncu was not run: it is not on PATH.")
    else:
        count(names, settings, record)


def training(settings: Settings) -> qat_networks.Training:
    """Return the quantized training step, warmed up."""
    found = qat_networks.build(qat_networks.OURS, size_of(settings))
    for _ in range(2):
        found()
    return found


def counted(settings: Settings) -> Callable[[], None]:
    """Return the forward and backward pass of the stem and the first blocks."""
    size = replace(size_of(settings), batch=COUNTED_BATCH)
    found = qat_networks.build(qat_networks.OURS, size)
    network = found.network

    def both_ways() -> None:
        with autocast(found.images.device, found.amp):
            x = network._swish(network._bn0(network._conv_stem(found.images)))
            for block in network._blocks[:COUNTED_BLOCKS]:
                x = block(x)
        x.float().mean().backward()
        found.optimizer.zero_grad()

    return both_ways


def time_kernels(settings: Settings, record: Record) -> list[str]:
    """Record the kernels of one step, costliest first; return the names of the first ones."""
    kernels = kernel_times(training(settings), settings.device)
    total, calls = sum(k.ms for k in kernels), sum(k.calls for k in kernels)
    record.note(f"A step: {calls:,} launches of {len(kernels)} kernels, {total:.4g} ms in all.")
    shown = [k for k in kernels[:MOST_ROWS] if k.ms >= LEAST_SHARE * total]
    record.table(
        TIMES,
        [
            {
                "kernel": k.name,
                "calls": k.calls,
                "ms": k.ms,
                "share": k.ms / total if total else None,
            }
            for k in shown
        ],
    )
    return [kernel.name for kernel in shown if EVERYWHERE not in kernel.name][:COSTLIEST]


def base_name(kernel: str) -> str:
    """Return a kernel's name without return type, namespaces, template and arguments."""
    plain = kernel.replace("(anonymous namespace)", "anonymous")
    return re.split(r"[<(]", plain.removeprefix("void "))[0].rpartition("::")[2].strip()


def count(names: list[str], settings: Settings, record: Record) -> None:
    """Run ncu over the first blocks; record of each kernel its longest launch."""
    bases = "|".join(re.escape(name) for name in dict.fromkeys(map(base_name, names)))
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv"]
    command += ["--page", "raw", "--metrics", ",".join(METRICS), "--launch-count"]
    command += [str(MOST_LAUNCHES), "--kill", "yes", "--kernel-name", f"regex:^({bases})$"]
    command += [sys.executable, "-m", __spec__.name, settings.as_json()]
    said, ended = run(command, Path(settings.scratch) / "ncu.txt", settings.left() - REST)
    print(said, flush=True)
    rows = longest(said.splitlines())
    if not rows:
        errors = [line for line in said.splitlines() if "==ERROR==" in line]
        why = errors[0] if errors else ended or "it counted nothing"
        record.note(f"ncu did not work here: {why}")
    elif ended:
        record.note(f"ncu did not come to its end: {ended}.")
    for row in rows:
        record.row(COUNTERS, row)


def run(command: Sequence[str], into: Path, limit: float) -> tuple[str, str]:
    """Run a command; return the whole lines that it printed, and how it ended, '' where well."""
    with into.open("wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = child.wait(max(limit, 0))
            ended = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"stopped after {max(limit, 0):.0f} s"
            # It prints what it has counted.
            child.send_signal(signal.SIGINT)
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    said = into.read_text(errors="replace")
    return said[: said.rfind("\n") + 1], ended


def longest(lines: Iterable[str]) -> list[dict[str, object]]:
    """Return the row of each kernel's longest launch, of the CSV that ncu prints."""
    # Its own messages stand between; the row under the head holds the units.
    reader = csv.DictReader(line for line in lines if line.startswith('"'))
    first = next(reader, None)
    if first is None:
        return []
    found: dict[str, dict[str, object]] = {}
    for line in reader:
        row = {heading: _number(line.get(metric) or "") for metric, heading in METRICS.items()}
        name = base_name(line["Kernel Name"])
        if name not in found or row["time"] > found[name]["time"]:
            found[name] = {"kernel": name, "grid": line.get("Grid Size", ""), **row}
    units = {METRICS[metric]: unit for metric, unit in first.items() if metric in METRICS}
    return [
        {f"{key} ({units[key]})" if units.get(key) else key: value for key, value in row.items()}
        for row in found.values()
    ]


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return 0.0


def main(settings: str) -> None:
    """Run what ncu looks at, once it is warmed up."""
    step = counted(Settings.from_json(settings))
    step()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    step()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main(sys.argv[1])
