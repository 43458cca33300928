"""What a stage has found so far, in a file that is whole at every moment."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Findings:
    """Figures of the RESULT line, why one is missing, tables of rows, and remarks."""

    figures: dict[str, float | bool] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Record:
    """Findings that are written anew with each addition: a killed stage keeps what it measured."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, Findings()
        self._write()

    def figure(self, name: str, value: float | bool) -> None:
        """Note a figure of the RESULT line."""
        self.found.figures[name] = value
        self._write()

    def missing(self, name: str, why: str) -> None:
        """Note why a figure was not measured."""
        self.found.missing[name] = why
        self._write()

    def row(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to a table; all rows of one have the same keys."""
        self.found.tables.setdefault(table, []).append(dict(row))
        self._write()

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put rows in place of those that a table has, as a measurement goes on."""
        self.found.tables[name] = [dict(row) for row in rows]
        self._write()

    def note(self, text: str) -> None:
        """Add a remark."""
        self.found.notes.append(text)
        self._write()

    def _write(self) -> None:
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(asdict(self.found), indent=2) + "\n")
        os.replace(beside, self.path)


def read(path: Path) -> Findings:
    """Return what a stage left, nothing where it left no file."""
    return Findings(**json.loads(path.read_text())) if path.exists() else Findings()
