"""A score layer by layer: as text, Markdown, CSV, and records for JSON."""

from __future__ import annotations

import csv
import io
from fractions import Fraction
from typing import Any

from micronet.quantization.quantize import LayerBits
from micronet.scoring.count import LayerRow, Score
from micronet.utils.number_format import decimal, exact, fixed, grid, markdown_grid

_ELSEWHERE = "(no layer)"
_NUMBERS = ("storage", "multiplications", "additions", "operations", "score")
_HEAD = ["layer", "shape", "not zero", "of", "bits W/A", "stored as", *_NUMBERS]


def layer_table(result: Score, markdown: bool = False) -> str:
    """Return one line a layer and the total, decimals rounded to be read."""
    rows = [_HEAD, *(_cells(row) for row in result.rows()), _total_cells(result)]
    write = markdown_grid if markdown else grid
    # Exact numbers are for machines; these are for the eye.
    return write(rows, left=2)


def layer_csv(result: Score) -> str:
    """Return one line a layer and the total: every number exactly (``p/q``) and as a decimal."""
    out = io.StringIO()
    names = ["layer", "shape", "nonzeros", "weights", "weight_bits", "input_bits", "stored_as"]
    names += [column for name in _NUMBERS for column in (f"{name}_exact", name)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for record in layer_records(result):
        exactly = {f"{name}_exact": record[name] for name in _NUMBERS}
        decimals = {name: decimal(Fraction(record[name])) for name in _NUMBERS}
        writer.writerow(record | exactly | decimals)
    return out.getvalue().rstrip("\n")


def layer_records(result: Score) -> list[dict[str, Any]]:
    """Return one record a layer and the total; exact numbers are strings."""
    records = [_record(row) for row in result.rows()]
    whole = _sum(result)
    return [*records, _record(whole) | {"weights": result.weights, "nonzeros": _nonzero(result)}]


def _record(row: LayerRow) -> dict[str, Any]:
    facts = row.facts
    return {
        "layer": row.name or _ELSEWHERE,
        "shape": _shape(row),
        "nonzeros": facts.nonzero if facts else "",
        "weights": facts.numel if facts else "",
        "weight_bits": _bits(facts.bits.weight_bits) if facts else "",
        "input_bits": _bits(facts.bits.activation_bits) if facts else "",
        "stored_as": row.layout,
        **{name: exact(getattr(row, name)) for name in _NUMBERS},
    }


def _sum(result: Score) -> LayerRow:
    rows = result.rows()
    sums = {name: sum((getattr(row, name) for row in rows), Fraction(0)) for name in _NUMBERS}
    return LayerRow("total", None, "", **sums)


def _cells(row: LayerRow) -> list[str]:
    facts = row.facts
    counts = [str(facts.nonzero), str(facts.numel)] if facts else ["", ""]
    bits = _both(facts.bits) if facts else ""
    return [row.name or _ELSEWHERE, _shape(row), *counts, bits, row.layout, *_numbers(row)]


def _total_cells(result: Score) -> list[str]:
    counts = [str(_nonzero(result)), str(result.weights)]
    return ["total", "", *counts, "", "", *_numbers(_sum(result))]


def _numbers(row: LayerRow) -> list[str]:
    works = [row.storage, row.multiplications, row.additions, row.operations]
    return [*(fixed(value, 2) for value in works), fixed(row.score, 6)]


def _nonzero(result: Score) -> int:
    return sum(facts.nonzero for facts in result.layers.values())


def _shape(row: LayerRow) -> str:
    return "x".join(str(side) for side in row.facts.shape) if row.facts else ""


def _both(bits: LayerBits) -> str:
    return f"{_bits(bits.weight_bits)}/{_bits(bits.activation_bits)}"


def _bits(bits: float | None) -> str:
    return "float" if bits is None else f"{bits:g}"
