"""Turns: engines in processes of their own, which run one after the other, round by round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.engine import settings
from benchmarks.engine.settings import Job
from benchmarks.harness.machine import ROOT
from benchmarks.kernels.fake_quant import ALLOCATORS

# Seconds of timed runs of a turn, and of the pause before the next one: threads of an engine that
# has run spin for some 50 ms before they sleep.
TURN, PAUSE = 0.15, 0.1
MOST_RUNS = 40


@dataclass
class Timed:
    """The runs of one engine in a setting; without any, the note says why."""

    job: Job
    version: str = ""
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # of all threads together


class Worker:
    """A process that has an engine loaded and runs it when asked."""

    def __init__(self, job: Job, log: Path) -> None:
        """Start the process; it has loaded the engine once ``ready`` returns."""
        self.timed = Timed(job)
        python = settings.PEERS_PYTHON if job.engine in settings.PEERS else Path(sys.executable)
        self._process: subprocess.Popen[str] | None = None
        if not python.exists():
            self.timed.note = "not installed: `make bench-engine` makes the peers' environment"
            return
        threads = str(job.setting.threads)
        environment = {
            **os.environ,
            **ALLOCATORS["warm"],
            "OMP_NUM_THREADS": threads,
            "TORCHINDUCTOR_CACHE_DIR": str(settings.BUILD / "inductor"),
        }
        command = [str(python), "-m", "benchmarks.engine.worker", json.dumps(asdict(job))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command, stderr=errors, env=environment, cwd=ROOT, **pipes
            )

    def ready(self) -> bool:
        """Wait until the engine is loaded; return whether it is."""
        if self._process is None:
            return False
        found = self._answer()
        self.timed.version, self.timed.note = found.get("version", ""), found.get("missing", "")
        if self.timed.note:
            self.end()
            return False
        self._runs = runs_of_a_turn(found["seconds"])
        return True

    def turn(self) -> None:
        """Run for one turn; an engine that ends in it has no time."""
        if self.timed.note:
            return
        assert self._process is not None and self._process.stdin is not None
        try:
            print(self._runs, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # The answer says how it ended.
        found = self._answer()
        self.timed.note = found.get("missing", "")
        for times in (self.timed.seconds, self.timed.processor):
            if self.timed.note:
                times.clear()
        self.timed.seconds += found.get("seconds", [])
        self.timed.processor += found.get("processor", [])

    def _answer(self) -> dict:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"missing": f"it ended with code {self._process.wait()}"}
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def runs_of_a_turn(seconds: float) -> int:
    """Return how many runs of so many seconds fill a turn."""
    return max(1, min(MOST_RUNS, round(TURN / seconds)))


def take_turns(
    jobs: Sequence[Job], rounds: int, log: Path, pause: float = PAUSE
) -> Mapping[str, Timed]:
    """Return the runs of all jobs of a setting, by label, each engine once a round."""
    log.parent.mkdir(parents=True, exist_ok=True)
    workers = []
    for job in jobs:
        # One after the other: what loads or compiles has the cores to itself.
        worker = Worker(job, log)
        worker.ready()
        workers.append(worker)
    for _ in range(rounds):
        for worker in workers:
            if not worker.timed.note:
                time.sleep(pause)
                worker.turn()
    for worker in workers:
        worker.end()
    return {worker.timed.job.label: worker.timed for worker in workers}
