"""Tables in Markdown and JSON, with the machine and the versions beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Reports are also written where the kernels are not built yet.
    from benchmarks.harness.methods import Row

RESULTS = Path(__file__).resolve().parents[1] / "results"


def _number(digits: int, times: float = 1, unit: str = "") -> Callable[[float | None], str]:
    return lambda value: "" if value is None else f"{value * times:.{digits}f}{unit}"


def _spread(row: Row) -> str:
    return "" if row.p10_ms is None else f"{row.p10_ms:.3f}-{row.p90_ms:.3f}"


# Heading, alignment, and the cell of a row.
_COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("method", "---", lambda row: row.label),
    ("op", "---", lambda row: f"`{row.op}`" + (f" ({row.note})" if row.note else "")),
    ("pass", "---", lambda row: row.direction),
    ("shape", "---", lambda row: row.shape),
    ("dtype", "---", lambda row: row.dtype),
    ("backend", "---", lambda row: row.backend),
    ("ms", "--:", lambda row: _number(3)(row.ms)),
    ("p10-p90", "--:", _spread),
    ("GB/s", "--:", lambda row: _number(1)(row.gb_per_s)),
    ("of copy", "--:", lambda row: _number(0, 100, " %")(row.share_of_copy)),
    ("x ours", "--:", lambda row: _number(2)(row.ratio)),
]

LEGEND = (
    "ms: median of interleaved rounds. GB/s: of the least bytes the method could move. of copy: "
    "that rate over the rate of the copy of as many floats in the same rounds. x ours: time over "
    "the time of ours, so a peer's factor."
)


def markdown(rows: Sequence[Row]) -> str:
    """Return one table."""
    head = "| " + " | ".join(name for name, _, _ in _COLUMNS) + " |"
    rule = "| " + " | ".join(align for _, align, _ in _COLUMNS) + " |"
    body = ["| " + " | ".join(cell(row) for _, _, cell in _COLUMNS) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def facts(machine: Mapping[str, str]) -> str:
    """Return the machine and versions as a list."""
    return "\n".join(f"- {name}: {value}" for name, value in machine.items())


def publish(
    folder: Path,
    stem: str,
    text: str,
    record: Mapping[str, object],
    summary: Mapping[str, object],
) -> None:
    """Write a result, and print it with its summary in the last line, as ``RESULT {json}``."""
    write(folder, stem, text, record)
    print(text)
    print("RESULT " + json.dumps(summary))


def write(folder: Path, stem: str, text: str, record: Mapping[str, object]) -> None:
    """Write the Markdown and the JSON of one result beside each other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(text)
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=2) + "\n")
