"""What a device ran in one step, kernel by kernel, by torch's profiler."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.methods import wait_for
from benchmarks.harness.timing import Step


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel."""

    name: str
    calls: int
    ms: float


def kernel_times(step: Step, device: str) -> list[KernelTime]:
    """Run a step once; return the kernels of the device, or on the CPU the operators, by time."""
    on_cpu = device == "cpu"
    # As torch does beside its own graphs: CUPTI does not come back well once it has been left.
    os.environ.update(DISABLE_CUPTI_LAZY_REINIT="1", TEARDOWN_CUPTI="0")
    watched = [ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]
    wait = wait_for(device)
    # What still runs would count as well.
    wait()
    # Without acc_events torch warns, for those who profile more than once.
    with profile(activities=watched, acc_events=True) as taken:
        step()
        wait()
    return merged(taken.key_averages(), on_cpu)


def merged(events: Iterable[Any], on_cpu: bool) -> list[KernelTime]:
    """Return the times of the profiler's averages, costliest first, one of each short name.

    Of a device only what it ran itself counts: calls of the host and named ranges, such as a step
    of an optimizer, hold the same time once more.
    """
    found: dict[str, KernelTime] = {}
    for event in events:
        if (event.device_type == DeviceType.CPU) != on_cpu or event.is_user_annotation:
            continue
        took = (event.self_cpu_time_total if on_cpu else event.self_device_time_total) / 1e3
        name = short_name(event.key)
        before = found.get(name, KernelTime(name, 0, 0.0))
        found[name] = KernelTime(name, before.calls + event.count, before.ms + took)
    return sorted(found.values(), key=lambda kernel: kernel.ms, reverse=True)


def short_name(kernel: str) -> str:
    """Return a kernel's name with its template arguments, without namespaces and arguments."""
    plain = re.sub(r"\(anonymous namespace\)::", "", kernel.removeprefix("void "))
    # Operators of torch and copies, which are no functions, stay as they are.
    if "(" not in plain or plain.startswith("Mem"):
        return plain
    depth, end = 0, len(plain)
    for place, letter in enumerate(plain):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            end = place
            break
    return re.sub(r"\w+::", "", plain[:end]).strip()
