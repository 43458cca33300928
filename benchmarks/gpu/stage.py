"""The process of one stage: ``python -m benchmarks.gpu.stage MODULE SETTINGS FILE``."""

import importlib
import sys
from pathlib import Path

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings


def main(module: str, settings: str, into: str) -> None:
    """Measure a stage, its findings written to the file as they come."""
    measure = importlib.import_module(f"benchmarks.gpu.stages.{module}").measure
    measure(Settings.from_json(settings), Record(Path(into)))


if __name__ == "__main__":
    main(*sys.argv[1:])
