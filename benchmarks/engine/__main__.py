"""``make bench-engine``: packed networks in the engine beside LiteRT, OpenVINO, onnxruntime, torch.

The files of ours are made anew; the peers' int8 models are made once and kept in build/engine. A
peer that is not installed, or whose model cannot be made, is in the table with the reason. Writes
two tables under ``benchmarks/results/`` and ends with one RESULT line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.engine import peer_models, process, profile_page, settings, table, turns
from benchmarks.engine.settings import ENGINES, NETWORKS, SHAPES, Setting
from benchmarks.engine.table import Row
from benchmarks.harness import machine, report
from micronet.utils.errors import UserError, nearest, reports_user_errors

ROUNDS = 15
NOT_COMPILED = "not measured: give --compile"


def parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--networks", nargs="+", default=list(settings.IN_TABLE), metavar="NAME")
    found.add_argument("--engines", nargs="+", default=list(ENGINES), metavar="NAME")
    found.add_argument("--cores", type=_cores, help="such as 0,1; all that the process may use")
    found.add_argument("--rounds", type=int, default=ROUNDS)
    found.add_argument("--compile", action="store_true", help="torch.compile, which takes minutes")
    found.add_argument("--program", type=Path, help="micronet-run; that of the build otherwise")
    found.add_argument("--folder", type=Path, default=settings.BUILD, help="of models")
    found.add_argument("--results", type=Path, default=report.RESULTS)
    return found


def _cores(text: str) -> set[int]:
    found = {int(core) for core in text.split(",")}
    if not found <= os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"{text} are not cores that this process may use")
    return found


def check(args: argparse.Namespace) -> None:
    """Raise UserError where an option names what is not there."""
    for option, known in (("networks", NETWORKS), ("engines", ENGINES)):
        for name in getattr(args, option):
            if name not in known:
                raise UserError(f"--{option}: {name!r} is not one{nearest(name, known)}")
    if args.rounds < 1:
        raise UserError(f"--rounds must be 1 or more, not {args.rounds}")
    if args.program is not None and not args.program.is_file():
        raise UserError(f"--program: {str(args.program)!r} is no file")


def make_ours(folder: Path, networks: Sequence[str]) -> dict:
    """Make the files of ours in a process of its own; return what is known of them."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.engine.networks", str(folder), *networks]
    subprocess.run(command, check=True, cwd=machine.ROOT)
    return json.loads((folder / "networks.json").read_text())


def rows_of(setting: Setting, args: argparse.Namespace) -> list[Row]:
    """Return the rows of a setting; a process of fewer cores than threads has no times."""
    jobs = settings.jobs(setting, tuple(args.engines), args.folder)
    cores = len(os.sched_getaffinity(0))
    if setting.threads > cores:
        return table.not_measured(jobs, f"not measured: {setting.threads} threads on {cores} core")
    left_out = [job for job in jobs if job.engine == settings.COMPILED and not args.compile]
    running = [job for job in jobs if job not in left_out]
    timed = turns.take_turns(running, args.rounds, args.folder / "log.txt")
    found = [table.row_of(timed[job.label]) for job in running]
    return found + table.not_measured(left_out, NOT_COMPILED)


def measure_process(
    program: Path | None, folder: Path, networks: Sequence[str]
) -> dict[str, float | None]:
    """Return time and memory of the command with EfficientNet-B1, None where one is not there."""
    if program is None or settings.B1 not in networks:
        return {"load_ms": None, "resident_mb": None}
    model = settings.packed(folder, settings.B1, "4/4")
    return {
        "load_ms": round(process.load_ms(program, model), 2),
        "resident_mb": round(process.resident_mib(program, model), 1),
    }


def facts(before: tuple[float, ...]) -> dict[str, str]:
    """Return the machine, its load, and the cores that were used."""
    found = machine.describe()
    found["cores used"] = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    loads = (" ".join(f"{load:.1f}" for load in each) for each in (before, os.getloadavg()))
    found["load of 1, 5 and 15 minutes, before and after"] = ", ".join(loads)
    return found


def say(text: str) -> None:
    """Print what is done next."""
    print(text, file=sys.stderr, flush=True)


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Make, measure, print and write the tables, and end with the RESULT line."""
    args = parser().parse_args(argv)
    check(args)
    # What this process starts has the same cores.
    os.sched_setaffinity(0, args.cores or os.sched_getaffinity(0))
    folder = args.folder
    say(f"networks of ours into {folder}")
    made = make_ours(folder, args.networks)
    peer_models.make(folder, args.networks, args.engines, say)
    before, rows = os.getloadavg(), []
    for name in args.networks:
        for threads, batch in SHAPES:
            say(f"{name}, {threads} threads, batch {batch}")
            rows += rows_of(Setting(name, threads, batch), args)
    first = NETWORKS[args.networks[0]]
    command = measure_process(args.program or process.program(), folder, args.networks)
    macs = made[first.name]["multiply_adds"]
    profile = profile_page.measure(folder, first, macs, process.peaks(), profile_page.RUNS)
    about, summary = facts(before), table.summarize(rows, made, command)
    text = profile_page.markdown(profile, about)
    record = {**profile.as_dict(), "machine": about}
    report.write(args.results, profile_page.STEM, text, record)
    text = table.markdown(rows, summary, about)
    record = {"summary": summary, "rows": [asdict(row) for row in rows], "machine": about}
    report.publish(args.results, table.STEM, text, record, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
