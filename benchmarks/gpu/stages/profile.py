"""Stage g: which kernels a training step spends its time in, and ncu's counters of the first five.

As a program it is what ncu looks at: one step after those that warm up.
"""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages.training_step import size_of
from benchmarks.harness.machine import ROOT
from benchmarks.qat import networks as qat_networks

TIMES, COUNTERS, COSTLIEST, MOST_LAUNCHES = "Kernels of a step", "Counters", 5, 150
# A smaller batch: ncu runs each launch several times, and saves what it writes each time.
COUNTED_BATCH = 64
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


def training(settings: Settings, batch: int | None = None) -> qat_networks.Training:
    """Return the quantized training step, warmed up."""
    size = size_of(settings)
    found = qat_networks.build(qat_networks.OURS, replace(size, batch=batch or size.batch))
    for _ in range(2):
        found()
    return found


def time_kernels(settings: Settings, record: Record) -> list[str]:
    """Record the kernels of one step, costliest first; return the names of the first ones."""
    on_cpu = settings.device == "cpu"
    step = training(settings)
    with profile(activities=[ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]) as taken:
        step()
        if not on_cpu:
            torch.cuda.synchronize()
    key = "self_cpu_time_total" if on_cpu else "self_device_time_total"
    events = sorted(taken.key_averages(), key=lambda e: getattr(e, key), reverse=True)
    total = sum(getattr(event, key) for event in events)
    for event in events[: 4 * COSTLIEST]:
        took = getattr(event, key)
        row = {"kernel": event.key[:120], "calls": event.count, "ms": took / 1e3}
        record.row(TIMES, {**row, "share": took / total if total else None})
    return [event.key for event in events[:COSTLIEST]]


def base_name(kernel: str) -> str:
    """Return a kernel's name without return type, namespaces, template and arguments."""
    plain = kernel.replace("(anonymous namespace)", "anonymous")
    return re.split(r"[<(]", plain.removeprefix("void "))[0].rpartition("::")[2].strip()


def count(names: list[str], settings: Settings, record: Record) -> None:
    """Run ncu over one step; record of each kernel its longest launch."""
    bases = "|".join(re.escape(name) for name in dict.fromkeys(map(base_name, names)))
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv"]
    command += ["--page", "raw", "--metrics", ",".join(METRICS), "--launch-count"]
    command += [str(MOST_LAUNCHES), "--kernel-name", f"regex:^({bases})$"]
    command += [sys.executable, "-m", __spec__.name, settings.as_json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    rows = longest(done.stdout.splitlines())
    if done.returncode or not rows:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "==ERROR==" in line]
        why = said[0] if said else f"exit code {done.returncode}, {len(rows)} kernels"
        record.note(f"ncu did not work here: {why}")
    for row in rows:
        record.row(COUNTERS, row)


def longest(lines: Iterable[str]) -> list[dict[str, object]]:
    """Return the row of each kernel's longest launch, of the CSV that ncu prints."""
    # Its own messages stand between; the row under the head holds the units.
    reader = csv.DictReader(line for line in lines if line.startswith('"'))
    first = next(reader, None)
    if first is None:
        return []
    found: dict[str, dict[str, object]] = {}
    for line in reader:
        row = {heading: _number(line.get(metric, "")) for metric, heading in METRICS.items()}
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
    """Run the step that ncu looks at."""
    step = training(Settings.from_json(settings), COUNTED_BATCH)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    step()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    main(sys.argv[1])
