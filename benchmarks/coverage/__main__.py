"""``make coverage``: each family of networks pruned, trained in 4 bits, evaluated and scored.

Each network has a process and a time limit of its own, so that none stops the others. Writes a
table under ``benchmarks/results/`` and ends with one RESULT line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

# The processes are forked: what is imported here they need not import again.
import timm  # noqa: F401
import torch

from benchmarks.coverage import networks, table
from benchmarks.coverage.examination import Coverage, examine
from benchmarks.harness import machine, report
from micronet.utils.errors import UserError, nearest, reports_user_errors

STEM = "coverage"
_FORKED = multiprocessing.get_context("fork")


@dataclass
class _Running:
    """A network that is being examined."""

    name: str
    process: Any
    answer: Any
    began: float


def examined(names: list[str], jobs: int, limit: float) -> Iterator[Coverage]:
    """Yield what is found of each network, ``jobs`` of them at once, for ``limit`` seconds each."""
    waiting, running = list(names), list[_Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(_started(waiting.pop(0)))
        connection.wait([one.answer for one in running], timeout=1.0)
        for one in list(running):
            if (found := _result(one, limit)) is not None:
                running.remove(one)
                found.seconds = round(time.monotonic() - one.began, 1)
                yield found


def _started(name: str) -> _Running:
    answer, theirs = _FORKED.Pipe(duplex=False)
    process = _FORKED.Process(target=_examine, args=(name, theirs))
    process.start()
    theirs.close()
    return _Running(name, process, answer, time.monotonic())


def _examine(name: str, answer: Any) -> None:
    torch.set_num_threads(1)
    answer.send(examine(name, networks.every()[name][0]))


def _result(one: _Running, limit: float) -> Coverage | None:
    """Return what a process says, or how it ended; None while it works."""
    found = Coverage(one.name, networks.every()[one.name][0])
    if one.answer.poll():
        try:
            found = one.answer.recv()
        except EOFError:
            one.process.join()
            found.crashes["process"] = f"it ended with code {one.process.exitcode}"
    elif time.monotonic() - one.began > limit:
        found.crashes["process"] = f"it was not done after {limit:g} s"
        one.process.kill()
    else:
        return None
    one.process.join()
    return found


def _chosen(only: list[str]) -> list[str]:
    every = list(networks.every())
    for name in only:
        if name not in every:
            raise UserError(f"{name!r} is not in the table{nearest(name, every)}")
    return only or every


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Examine, print and write the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these networks")
    parser.add_argument("--jobs", type=int, default=2, help="networks at once")
    parser.add_argument("--limit", type=float, default=240, help="seconds for one of them")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    chosen = _chosen(args.only)
    found = {}
    for coverage in examined(chosen, args.jobs, args.limit):
        found[coverage.name] = coverage
        print(f"{coverage.name}: {table.summary(coverage)}", file=sys.stderr, flush=True)
    rows, facts = [found[name] for name in chosen], machine.describe()
    text, summary = table.markdown(rows, facts), table.totals(rows)
    record = {"summary": summary, "rows": [vars(row) for row in rows], "machine": facts}
    report.publish(args.results, STEM, text, record, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
