"""Several networks side by side under one rule set, the first being what others are held to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from fractions import Fraction

from micronet.scoring.count import Score, shares
from micronet.utils.number_format import decimal, exact, fixed, grid, markdown_grid

_HEAD = ["network", "sparsity", "storage", "operations", "score", "change"]


def comparison(results: Sequence[Score], form: str) -> str:
    """Return the totals of all networks, and what each kind of cost adds to their scores.

    Args:
        results: two or more scores under the same rules and track.
        form: "text", "markdown", "csv" or "json".
    """
    if form == "json":
        return json.dumps([_record(r, results[0]) for r in results], indent=2)
    if form == "csv":
        return _csv(results)
    write = markdown_grid if form == "markdown" else grid
    totals = [_HEAD, *(_cells(result, results[0]) for result in results)]
    first = results[0]
    rules = f"rules {first.rules.name}, track {first.track.name}"
    return f"{write(totals)}\n\n{write(_kinds(results))}\n\n{rules}"


def _cells(result: Score, first: Score) -> list[str]:
    return [
        result.subject.name,
        f"{float(result.sparsity):.4f}",
        fixed(result.storage, 2),
        fixed(result.operations, 2),
        fixed(result.score, 6),
        signed(result.score - first.score),
    ]


def signed(change: Fraction) -> str:
    """Write a change of a score to six places, with its sign."""
    text = fixed(change, 6)
    return text if change < 0 else f"+{text}"


def _kinds(results: Sequence[Score]) -> list[list[str]]:
    """Return a row for each kind of cost: its part of every score."""
    columns = [dict(shares(result)) for result in results]
    kinds = list(dict.fromkeys(kind for column in columns for kind in column))
    head = ["part of the score", *(str(i + 1) for i in range(len(results)))]
    zero = Fraction(0)
    return [head, *([k, *(fixed(c.get(k, zero), 6) for c in columns)] for k in kinds)]


def _csv(results: Sequence[Score]) -> str:
    out = io.StringIO()
    records = [_record(result, results[0]) for result in results]
    flat = [{k: v for k, v in record.items() if k != "by_kind"} for record in records]
    writer = csv.DictWriter(out, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue().rstrip("\n")


def _record(result: Score, first: Score) -> dict[str, object]:
    return {
        "network": result.subject.name,
        "arch": result.subject.arch,
        "image_size": result.subject.image_size,
        "sparsity": exact(result.sparsity),
        "storage": exact(result.storage),
        "operations": exact(result.operations),
        "score_exact": exact(result.score),
        "score": decimal(result.score),
        "change": exact(result.score - first.score),
        "by_kind": {kind: exact(share) for kind, share in shares(result)},
    }
