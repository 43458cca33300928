"""``make gpu``: build the extension, measure every stage, and end with one RESULT line.

Written under ``--out``, anew after each stage: ``gpu.json``, ``gpu.md`` and ``log.txt``. A stage
that fails or takes too long stops no other; the exit code is 1 then.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu import build, processes, record, report, table
from benchmarks.gpu.processes import LEFT_OUT, Outcome
from benchmarks.gpu.report import Report, Result
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.table import Stage
from benchmarks.harness.machine import ROOT
from micronet.utils.errors import UserError, reports_user_errors

MACHINE = Stage("", "machine", "The machine", 30)
WHEELS = ROOT / "build" / "wheels"


@dataclass(frozen=True)
class Budget:
    """The seconds that are left, and at most how many of them a stage gets."""

    ends: float  # of time.monotonic()
    stage_limit: float | None

    def left(self) -> float:
        """Return the seconds until the end."""
        return self.ends - time.monotonic()

    def of(self, stage: Stage) -> float:
        """Return the seconds for a stage."""
        return min(self.stage_limit or stage.limit, self.left())


def run_stage(stage: Stage, settings: Settings, out: Path, budget: Budget) -> Result:
    """Measure one stage in a process of its own, or say that no time is left for it."""
    limit = budget.of(stage)
    if limit <= 0:
        return Result(stage, Outcome(LEFT_OUT, 0, "no time was left"), record.Findings())
    into, log = out / "running.json", out / "log.txt"
    into.unlink(missing_ok=True)
    given = replace(settings, ends=time.monotonic() + limit)
    command = [sys.executable, "-m", "benchmarks.gpu.stage", stage.module, given.as_json()]
    env = build.environment(settings.device, build.site_of(settings.scratch))
    outcome = processes.run([*command, str(into)], log, limit, env)
    result = Result(stage, outcome, record.read(into))
    into.unlink(missing_ok=True)
    return result


def measure(args: argparse.Namespace, settings: Settings, budget: Budget) -> Report:
    """Build, then run the stages one after the other; all that is known is written each time."""
    log = args.out / "log.txt"
    log.write_text("")
    wheels = build.wheels_in(args.wheels)
    limit = min(table.BUILD_LIMIT, budget.left())
    site = build.site_of(settings.scratch)
    built = build.prepare(wheels, args.build, settings.device, log, limit, site)
    print(f"build: {built.status} in {built.seconds:.1f} s. {built.note}", flush=True)
    facts = run_stage(MACHINE, settings, args.out, budget).found.tables.get("Machine", [])
    machine = {row["name"]: row["value"] for row in facts}
    if args.revision:
        machine["micronet"] = args.revision
    known = Report(shlex.join(["python", "-m", "benchmarks.gpu", *args.given]), machine, built, [])
    report.write(args.out, known)
    for stage in args.only:
        result = run_stage(stage, settings, args.out, budget)
        known = replace(known, results=[*known.results, result])
        report.write(args.out, known)
        print(report.line_of(result), flush=True)
    return known


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments; those of the caller are kept for the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--only", type=_stages, default=table.STAGES, help="letters, such as a,c")
    add("--quick", action="store_true", help="tiny shapes; nothing is compiled by torch")
    add("--stage-limit", type=_seconds, help="seconds, instead of each stage's own")
    add("--total-limit", type=_seconds, default=table.TOTAL_LIMIT, help="seconds for everything")
    add("--build", action=argparse.BooleanOptionalAction, default=True, help="the extension")
    add("--wheels", type=Path, help="a folder of packages to install; build/wheels if there")
    add("--images", type=_existing, default="", help="a folder or tar of images, for stage e")
    add("--cifar10", type=_existing, default="", help="a folder or tar of train/ and val/")
    add("--revision", help="of a copy that is no git checkout")
    add("--out", type=Path, help="default: $OUT, or runs/gpu")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    args.out = args.out or Path(os.environ.get("OUT") or ROOT / "runs" / "gpu")
    if args.wheels is None and WHEELS.is_dir():
        args.wheels = WHEELS
    return args


def _stages(letters: str) -> tuple[Stage, ...]:
    try:
        return table.chosen(letters)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def _existing(text: str) -> str:
    if text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text!r}")
    return str(Path(text).absolute()) if text else ""


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Measure, write, and print the RESULT line last."""
    args = parse(argv)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here")
    args.out.mkdir(parents=True, exist_ok=True)
    budget = Budget(time.monotonic() + args.total_limit, args.stage_limit)
    with tempfile.TemporaryDirectory(prefix="micronet-gpu-") as scratch:
        settings = Settings(device, args.quick, scratch, args.images, args.cifar10)
        known = measure(args, settings, budget)
    print(f"written: {args.out / report.STEM}.md, .json and {args.out / 'log.txt'}")
    print(report.result_line(known.results))
    return 0 if report.is_whole(known) else 1


if __name__ == "__main__":
    sys.exit(main())
