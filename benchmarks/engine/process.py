"""What the command ``micronet-run`` and the compiler tell: time of opening, memory, peaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.engine.settings import ROOT

OPENINGS, BENCH_SECONDS = 21, "0.5"
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def program() -> Path | None:
    """Return ``micronet-run`` as the newest build of the extension left it, None without one."""
    built = [path for path in (ROOT / "build").glob("module-*/micronet-run") if path.is_file()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def load_ms(command: Path, model: Path, openings: int = OPENINGS) -> float:
    """Return the median ms of a process that opens a packed network, prints its shapes and ends.

    Raises CalledProcessError where it fails.
    """
    taken = []
    for _ in range(openings):
        start = time.perf_counter()
        subprocess.run([command, model], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def resident_mib(command: Path, model: Path) -> float:
    """Return the peak of resident memory of a process that runs single images, as the system says.

    Raises CalledProcessError where it fails. The peak that a parent gets of an ended child may be
    the parent's own, from before the child became the command; so it is read while that runs.
    """
    arguments = [command, model, "--bench", BENCH_SECONDS]
    peak = 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = _PEAK.search(status.read_text())
            # Until the child is the command, its memory is this process'.
            if found and _is_command(process.pid, command):
                peak = max(peak, int(found[1]))
            time.sleep(0.002)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    if not peak:
        raise RuntimeError(f"{command} ended before its memory was read")
    return peak / 1024


def _is_command(pid: int, command: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")) == command.resolve()
    except OSError:
        return False


def peaks() -> dict[str, float]:
    """Return 10^9 multiply-adds a second of a core by instruction; empty where none is measured."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.cpp")
        command = [compiler, "-O2", "-std=c++17", source, "-o", built]
        made = subprocess.run(command, check=False, capture_output=True)
        if made.returncode:
            return {}
        said = subprocess.run([built], check=True, capture_output=True, text=True)
        return json.loads(said.stdout)
