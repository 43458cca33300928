"""Stage a: the tests marked ``gpu``, native and Triton, and every failure in full."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness.machine import ROOT

# Warnings of other packages, newer here than the lock's, are shown; our own stay errors.
WARNINGS = "filterwarnings=default\nerror:::(micronet|micronet_kernels)(\\..*)?"
# Without a device: a file of tests whose run and report are like those.
ON_CPU = [
    "tests/kernels/test_gpu.py",
    "tests/kernels/test_mask_selection.py",
    "-k",
    "reference and prunes",
]
FAILURES, MOST_WORKERS = "Failures", 8


def command(settings: Settings, report: Path) -> list[str]:
    """Return the call of pytest; of its plugins only the one that shares out tests is loaded."""
    found = [sys.executable, "-m", "pytest", "-q", "-o", WARNINGS, f"--junitxml={report}"]
    if settings.device == "cpu":
        return [*found, *ON_CPU]
    # A fault of one kernel spoils its process: several, so that others still tell something.
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    return [*found, "-p", "xdist.plugin", "-n", str(workers), "-m", "gpu", *marked()]


def marked() -> list[str]:
    """Return the files with tests for a device: no other has to be importable where one is."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if "mark.gpu" in f.read_text()]


def measure(settings: Settings, record: Record) -> None:
    """Run the tests; record how many failed, and each failure."""
    report = Path(settings.scratch) / "tests.xml"
    report.unlink(missing_ok=True)
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command(settings, report), cwd=ROOT, env=env, check=False)
    if not report.exists():
        raise SystemExit(f"pytest ended with {done.returncode} and left no report")
    record_report(report, settings.device, record)


def record_report(report: Path, device: str, record: Record) -> None:
    """Read pytest's report into the record."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    record.row("Tests", {**counts, "seconds": float(suite.attrib["time"])})
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                name = f"{case.get('classname')}::{case.get('name')}"
                # The traceback is in the log, and in the JSON.
                message = (found.get("message") or "").splitlines() or [""]
                row = {"test": name, "message": message[0][:300], "text": found.text or ""}
                record.row(FAILURES, row)
    if device == "cpu":
        record.missing("tests_failed", "no device: one file of the CPU's tests ran in their place")
    elif not counts["tests"]:
        record.missing("tests_failed", "no test was found")
    else:
        record.figure("tests_failed", counts["failures"] + counts["errors"])
