"""What all stages found, as JSON, as Markdown, and as the RESULT line."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import FINISHED, Outcome
from benchmarks.gpu.record import Findings
from benchmarks.gpu.table import FIGURES, STAGES, Stage
from benchmarks.harness import report

STEM = "gpu"
# Columns that are too long for a table; they are in the JSON.
_LONG = {"text"}


@dataclass(frozen=True)
class Result:
    """One stage that was done, or was not."""

    stage: Stage
    outcome: Outcome
    found: Findings


@dataclass(frozen=True)
class Report:
    """All that is known at one moment."""

    command: str
    machine: dict[str, str]
    build: Outcome
    results: Sequence[Result]


def summarize(results: Sequence[Result]) -> dict[str, float | bool | None]:
    """Return the figures of the RESULT line; None: not measured."""
    known = {name: value for r in results for name, value in r.found.figures.items()}
    return {name: known.get(name) for name in FIGURES}


def missing(results: Sequence[Result]) -> dict[str, str]:
    """Return of each figure that was not measured why."""
    done = {result.stage.letter: result for result in results}
    reasons = {}
    for stage in STAGES:
        for name in stage.figures:
            result = done.get(stage.letter)
            if result is None:
                reasons[name] = f"stage {stage.letter} was not asked for or not reached"
            elif name not in result.found.figures:
                given = result.found.missing.get(name)
                outcome = result.outcome
                reasons[name] = given or f"stage {stage.letter} {outcome.status}: {outcome.note}"
    return reasons


def line_of(result: Result) -> str:
    """Return one line: how a stage ended, and its figures."""
    outcome, found = result.outcome, result.found
    parts = [f"{result.stage.letter} {result.stage.title}: {outcome.status}"]
    parts.append(f"in {outcome.seconds:.1f} s" + (f", {outcome.note}" if outcome.note else ""))
    parts += [f"{name} = {text(value)}" for name, value in found.figures.items()]
    parts += [f"{name} not measured: {why}" for name, why in found.missing.items()]
    return "; ".join([" ".join(parts[:2]), *parts[2:]])


# Markdown ---------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Return a value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows with the same keys as the lines of a table."""
    columns = [name for name in rows[0] if name not in _LONG]
    numbers = {
        name: all(isinstance(row[name], int | float | None) for row in rows) for name in columns
    }
    head = "| " + " | ".join(columns) + " |"
    rule = "|" + "|".join("--:" if numbers[name] else "---" for name in columns) + "|"
    return [head, rule, *("| " + " | ".join(text(row[c]) for c in columns) + " |" for row in rows)]


def _section(result: Result) -> list[str]:
    outcome, found = result.outcome, result.found
    how = f"{outcome.status} in {outcome.seconds:.1f} s" + (
        f": {outcome.note}" if outcome.note else ""
    )
    lines = [f"## {result.stage.letter}. {result.stage.title}", "", f"{how}.", ""]
    lines += [f"- {note}" for note in found.notes]
    for title, rows in found.tables.items():
        lines += ["", f"### {title}", "", *table(rows)]
    return [*lines, ""]


def markdown(known: Report) -> str:
    """Return the whole page."""
    reasons = missing(known.results)
    device = known.machine.get("device", "a device that is not known")
    lines = [f"# Measured on {device}", "", f"Made by `{known.command}`.", ""]
    for name, value in summarize(known.results).items():
        lines.append(f"- {name}: " + (reasons[name] if value is None else text(value)))
    build = known.build
    note = f": {build.note}" if build.note else ""
    lines += ["", f"Build of the extension: {build.status} in {build.seconds:.1f} s{note}.", ""]
    for result in known.results:
        lines += _section(result)
    return "\n".join([*lines, report.facts(known.machine)]) + "\n"


def write(folder: Path, known: Report) -> None:
    """Write Markdown and JSON, each whole or not at all."""
    record = {
        "summary": summarize(known.results),
        "missing": missing(known.results),
        "command": known.command,
        "machine": known.machine,
        "build": asdict(known.build),
        "stages": [asdict(result) for result in known.results],
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=STEM, suffix=".tmp") as beside:
        report.write(Path(beside), STEM, markdown(known), record)
        for path in Path(beside).iterdir():
            os.replace(path, folder / path.name)


def result_line(results: Sequence[Result]) -> str:
    """Return the line that the command ends with."""
    return "RESULT " + json.dumps(summarize(results))


def is_whole(known: Report) -> bool:
    """Whether the build and all stages came to their end."""
    return all(o.status == FINISHED for o in (known.build, *(r.outcome for r in known.results)))
