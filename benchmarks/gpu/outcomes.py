"""A plugin of pytest that writes down each test's outcome at once, so that a killed run keeps them.

A test run with ``-p benchmarks.gpu.outcomes`` appends to the file that MICRONET_TEST_OUTCOMES
names. A worker whose device a kernel's fault has spoiled ends before its next test; pytest-xdist
starts another, and counts that next test as crashed.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

FILE = "MICRONET_TEST_OUTCOMES"


@dataclass(frozen=True)
class Result:
    """How one test ended, and what was said of its failure."""

    test: str
    outcome: str  # passed, failed or skipped
    seconds: float
    text: str = ""


def read(path: Path) -> Iterator[Result]:
    """Yield what was written; a last line that is not whole was being written at the end."""
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):
            yield Result(**json.loads(line))


def pytest_configure(config: pytest.Config) -> None:
    """Register the half that writes in the process that hears of all tests, else the watching."""
    config.pluginmanager.register(_Watching() if hasattr(config, "workerinput") else _Writing())


class _Writing:
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test that is set up says how it ended after its call alone.
        if report.when == "call" or report.outcome != "passed":
            text = report.longreprtext if report.failed else ""
            result = Result(report.nodeid, report.outcome, report.duration, text)
            with open(os.environ[FILE], "a") as file:
                file.write(json.dumps(asdict(result)) + "\n")


class _Watching:
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # No device is spoiled where no test has imported torch, which takes seconds.
        torch = sys.modules.get("torch")
        try:
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
