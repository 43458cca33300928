"""The trainings of the comparison: each once, whenever there is time, from where it was left."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.harness import machine
from benchmarks.pipeline.recipes.variants import DENSE, Epochs, Variant, table
from micronet.cli import pipeline, train_main
from micronet.recipe.reader import Recipe
from micronet.runs.checkpoint import write_atomically
from micronet.utils.errors import UserError


class Case(NamedTuple):
    """One training."""

    network: str
    seed: int
    variant: str


@dataclass(frozen=True)
class Result:
    """What a finished training's best checkpoint is worth on the test images."""

    correct: int
    total: int
    sparsity: float
    bits: str
    epochs: int
    minutes: float
    score: float
    revision: str

    @property
    def top1(self) -> float:
        """In per cent."""
        return 100 * self.correct / self.total


class NotRun(str):
    """Why a training has no result."""


class Stop(Exception):
    """A training was interrupted, and with it all that follow; holds the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


Outcome = Result | NotRun


@dataclass(frozen=True)
class Comparison:
    """What is trained, where, and until when.

    Attributes:
        data: folder of images.
        work: where runs and results are kept; a second call goes on there.
        epochs: of each stage.
        deadline: of ``time.monotonic``, after which no training starts.
        options: further ones of ``micronet.train``.
    """

    data: Path
    work: Path
    epochs: Epochs
    deadline: float
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """Hold the folder of runs to the data and epochs of its first call.

        Raises:
            UserError: they were others.
        """
        settings = {"data": str(self.data.resolve()), "epochs": asdict(self.epochs)}
        kept = self.work / "settings.json"
        if not kept.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps(settings, indent=2).encode())
        elif (found := json.loads(kept.read_text())) != settings:
            raise UserError(f"{str(self.work)!r} was begun with {found}, not with {settings}")

    def run_all(
        self, networks: list[str], seeds: list[int], only: list[str] | None = None
    ) -> dict[Case, Outcome]:
        """Train what has no result yet; return what is known of all.

        Args:
            networks: by name.
            seeds: the first one's trainings come before those of the next.
            only: variants, which bring along those that they start from; all by default.

        Raises:
            Stop: a training was interrupted.
        """
        variants = table(self.epochs)
        wanted = _with_starts(variants, only or list(variants))
        found: dict[Case, Outcome] = {}
        for seed in seeds:
            for network in networks:
                for name in wanted:
                    case = Case(network, seed, name)
                    found[case] = self._outcome(case, variants[name], found)
        return found

    def _outcome(self, case: Case, variant: Variant, found: Mapping[Case, Outcome]) -> Outcome:
        kept = self._folder(case).with_suffix(".json")
        if kept.exists():
            return Result(**json.loads(kept.read_text()))
        try:
            Recipe.from_dict(variant.recipe)
        except UserError as error:
            return NotRun(str(error))
        if variant.start and isinstance(found[case._replace(variant=variant.start)], NotRun):
            return NotRun(f"it starts from {variant.start}, which was not run")
        if time.monotonic() >= self.deadline:
            return NotRun("time was up")
        outcome = self._train(case, variant)
        if isinstance(outcome, Result):
            write_atomically(kept, json.dumps(asdict(outcome), indent=2).encode())
        return outcome

    def _folder(self, case: Case) -> Path:
        return self.work / f"{case.network}-seed{case.seed}" / case.variant

    def _train(self, case: Case, variant: Variant) -> Outcome:
        run = self._folder(case)
        run.parent.mkdir(parents=True, exist_ok=True)
        recipe = run.with_suffix(".yaml")
        recipe.write_text(yaml.safe_dump(variant.recipe, sort_keys=False))
        command = [variant.stage, "--schedule", recipe, "--out", run, "--seed", case.seed]
        command += ["--data", self.data, "--holdout", "0.1", "--checkpoint-every", "2m"]
        command += self._start(case, variant)
        resume = ["--resume"] if (run / "config.json").exists() else []
        code, message = _called([str(word) for word in [*command, *self.options, *resume]])
        if code == 0:
            return _result(run)
        if code != 2:
            raise Stop(code)
        return NotRun(message)

    def _start(self, case: Case, variant: Variant) -> list[Any]:
        if variant.start is None:
            return ["--arch", case.network]
        source = ["--from", self._folder(case._replace(variant=variant.start))]
        if variant.stage != "qat":
            return source
        return [*source, "--teacher", self._folder(case._replace(variant=DENSE))]


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON holds it."""
    return {"not_run": str(outcome)} if isinstance(outcome, NotRun) else asdict(outcome)


def published(path: Path, epochs: Epochs) -> dict[Case, Outcome]:
    """Return the results in an earlier table; none where it has other epochs, or there is none."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    if record["epochs"] != asdict(epochs):
        return {}
    runs = [run for run in record["runs"] if "not_run" not in run]
    cases = [Case(*(run.pop(name) for name in Case._fields)) for run in runs]
    return {case: Result(**run) for case, run in zip(cases, runs, strict=True)}


def together(earlier: Mapping[Case, Outcome], found: Mapping[Case, Outcome]) -> dict[Case, Outcome]:
    """Return what is known of every training: the later result, but a reason for none last."""
    known = {**earlier, **{case: r for case, r in found.items() if isinstance(r, Result)}}
    everything = {**found, **known}
    order = list(table(Epochs(1, 1, 1)))
    by_table = sorted(
        everything, key=lambda case: (case.network, case.seed, order.index(case.variant))
    )
    return {case: everything[case] for case in by_table}


def _with_starts(variants: Mapping[str, Variant], names: list[str]) -> list[str]:
    """Return variants and all that they start from, in the order of the table."""
    wanted = set()
    for name in names:
        start: str | None = name
        while start is not None:
            wanted.add(start)
            start = variants[start].start
    return [name for name in variants if name in wanted]


def _called(command: list[str]) -> tuple[int, str]:
    """Run one command of ``micronet.train``; return its exit code and what it said last."""
    print("$ python -m micronet.train " + " ".join(command), flush=True)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = train_main.main(command)
    sys.stderr.write(said.getvalue())
    lines = said.getvalue().strip().splitlines()
    return code, lines[-1].removeprefix("error: ") if lines else ""


def _result(run: Path) -> Result:
    found = pipeline.result_of(run)
    return Result(
        correct=found.accuracy.correct,
        total=found.accuracy.total,
        sparsity=found.sparsity,
        bits=found.bits,
        epochs=found.epochs,
        minutes=found.minutes,
        score=float(found.score.score),
        revision=machine.revision(),
    )
