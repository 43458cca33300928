"""Stage a: the tests marked ``gpu`` or ``device``, native and Triton, and every failure in full."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import outcomes
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness.machine import ROOT

# Warnings of other packages, newer here than the lock's, are shown; our own stay errors.
WARNINGS = "filterwarnings=default\nerror:::(micronet|micronet_kernels)(\\..*)?"
# Without a device: a file of tests whose run and report are like those.
ON_CPU = {
    "one file of the CPU's": [
        "tests/kernels/test_gpu.py",
        "tests/kernels/test_mask_selection.py",
        "-k",
        "reference",
    ]
}
# Triton compiles for each test: the native kernels are known before that begins.
PARTS = {"native and training": "not triton", "Triton": "triton"}
TESTS, FAILURES, SLOWEST, MOST_WORKERS = "Tests", "Failures", "Slowest tests", 16
MARKED = re.compile(r"mark\.(gpu|device)\b")
# Seconds before the stage is killed, for what follows the tests.
REST = 3


def commands(settings: Settings) -> dict[str, list[str]]:
    """Return the calls of pytest; of other plugins only the one that shares out tests is there."""
    found = [sys.executable, "-m", "pytest", "-q", "-o", WARNINGS, "-p", "benchmarks.gpu.outcomes"]
    if settings.device == "cpu":
        return {part: [*found, *tests] for part, tests in ON_CPU.items()}
    # A fault of one kernel spoils its process: several, so that others still tell something.
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    found += ["-p", "xdist.plugin", "-n", str(workers), "-m", "gpu or device", *marked()]
    return {part: [*found, "-k", names] for part, names in PARTS.items()}


def marked() -> list[str]:
    """Return the files with tests for a device: no other has to be importable where one is."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if MARKED.search(f.read_text())]


def measure(settings: Settings, record: Record) -> None:
    """Run the tests; record how many failed, and each failure."""
    failed, why = 0, ""
    for part, command in commands(settings).items():
        into = Path(settings.scratch) / "tests.jsonl"
        into.unlink(missing_ok=True)
        began = time.monotonic()
        over = run(command, into, settings.left() - REST)
        results = list(outcomes.read(into))
        failed += record_part(part, results, time.monotonic() - began, over, record)
        if over or not results:
            why = f"{part}: {over or 'no test was found'}"
    if settings.device == "cpu":
        why = "no device: one file of the CPU's tests ran in their place"
    if why:
        record.missing("tests_failed", why)
    else:
        record.figure("tests_failed", failed)


def run(command: list[str], into: Path, limit: float) -> str:
    """Run pytest, its outcomes written to a file; return why not all of it ran, '' where it did."""
    # Tiles are not timed: shapes of tests are many and small.
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MICRONET_TUNE": "0", outcomes.FILE: str(into)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **env}, check=False, timeout=max(limit, 0)
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {max(limit, 0):.0f} s"
    # 0 and 1: all tests ran, and some failed. Others: none was collected, or pytest broke off.
    return "" if done.returncode in (0, 1) else f"pytest ended with {done.returncode}"


def record_part(
    part: str, results: list[outcomes.Result], seconds: float, over: str, record: Record
) -> int:
    """Record the tests of one part; return how many failed."""
    failed = [result for result in results if result.outcome == "failed"]
    skipped = sum(result.outcome == "skipped" for result in results)
    counts = {"tests": len(results), "failed": len(failed), "skipped": skipped}
    record.row(TESTS, {"part": part, **counts, "seconds": seconds, "note": over})
    for result in failed:
        # The whole text is in the JSON: the page shows where it ends.
        lines = [line for line in result.text.splitlines() if line.startswith("E ")]
        message = " ".join(line.removeprefix("E ").strip() for line in lines) or result.text[-300:]
        record.row(FAILURES, {"test": result.test, "message": message[:300], "text": result.text})
    for result in sorted(results, key=lambda result: result.seconds, reverse=True)[:5]:
        record.row(SLOWEST, {"test": result.test, "seconds": result.seconds})
    return len(failed)
