"""Before the stages: the machine, its device, and the versions of everything."""

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness import machine


def measure(settings: Settings, record: Record) -> None:
    """Record each fact as a row; in a process of its own, so that no other holds the device."""
    facts = {**machine.describe(), **machine.describe_device(settings.device)}
    for name, value in facts.items():
        record.row("Machine", {"name": name, "value": value})
