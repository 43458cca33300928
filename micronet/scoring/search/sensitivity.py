"""How much accuracy each change of a layer costs: the table that a search works from.

A CSV file with a header, or a JSON list of objects, with these columns:

    layer     name, or pattern as in a recipe, of the layers; all that it means have the row
    bits      bits of the weights, 1 to 8; empty leaves them as planned
    inputs    bits of the input, 1 to 8; empty leaves them as planned
    sparsity  share of zeros, from 0 and below 1; empty leaves it as planned
    loss      accuracy lost when this layer alone is changed so, in any unit, the same in all rows

Several rows of a layer are alternatives. The plan itself is an alternative too, of loss 0.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from micronet.recipe.layer_patterns import layers_meant
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.search.changes import Change
from micronet.utils.errors import UserError, nearest

_COLUMNS = ("layer", "bits", "inputs", "sparsity", "loss")


@dataclass(frozen=True)
class Option:
    """An alternative for a layer: the change, and the accuracy that it costs."""

    change: Change
    loss: Fraction


def load_sensitivity(path: str, subject: ScoredNetwork) -> dict[str, list[Option]]:
    """Return the alternatives of each layer that the table names, in the order of the table.

    Raises:
        UserError: the file cannot be read, or a row of it is wrong: it is named by its number.
    """
    options: dict[str, list[Option]] = {}
    for number, row in enumerate(_rows(path), 1):
        where = f"{path}: row {number}"
        option = _option(row, where)
        for layer in layers_meant(subject.layers, str(row.get("layer", "")), where):
            options.setdefault(layer, []).append(option)
    if not options:
        raise UserError(f"{path} has no rows")
    return options


def _rows(path: str) -> list[Mapping[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read sensitivity table {path!r}: {reason}") from None
    if not path.endswith(".json"):
        return list(csv.DictReader(io.StringIO(text)))
    try:
        # A decimal is read as it is written, not as the binary number nearest to it.
        rows = json.loads(text, parse_float=str)
    except ValueError:
        raise UserError(f"sensitivity table {path!r} is not JSON") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"sensitivity table {path!r} is not a list of objects")
    return rows


def _option(row: Mapping[str, Any], where: str) -> Option:
    for column in row:
        if column not in _COLUMNS:
            hint = nearest(str(column), _COLUMNS)
            raise UserError(f"{where}: unknown column {column!r}{hint}")
    numbers = {name: _number(row.get(name), name, where) for name in _COLUMNS[1:]}
    loss = numbers.pop("loss")
    if loss is None:
        raise UserError(f"{where}: column 'loss' is missing")
    change = Change(**numbers)
    if problem := change.problem():
        raise UserError(f"{where}: {problem}")
    if change == Change():
        raise UserError(f"{where} changes nothing: give bits, inputs or sparsity")
    return Option(change, loss)


def _number(value: object, name: str, where: str) -> Fraction | None:
    if value is None or value == "":
        return None
    try:
        return Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{where}: {name} {value!r} is not a number") from None
