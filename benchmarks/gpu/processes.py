"""Commands with a time limit: a process group each, killed whole."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.machine import ROOT

FINISHED, FAILED, KILLED, LEFT_OUT = "finished", "failed", "killed", "left out"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: str
    seconds: float
    note: str = ""


def run(command: Sequence[str], log: Path, limit: float, env: Mapping[str, str]) -> Outcome:
    """Run a command from the checkout's root, its output appended to `log`, for `limit` seconds."""
    began = time.monotonic()
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        # A group of its own, yet of the same terminal: it ends with whoever ends all of that's.
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=env, process_group=0
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # What the command started and left, which may hold the device's memory, goes as well.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    seconds = time.monotonic() - began
    if code is None:
        return Outcome(KILLED, seconds, f"stopped at its limit of {limit:.0f} s")
    if code:
        return Outcome(FAILED, seconds, f"exit code {code}: {last_line(log)}")
    return Outcome(FINISHED, seconds)


def last_line(log: Path, longest: int = 300) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line[:longest] for line in reversed(lines) if line), "no output")
