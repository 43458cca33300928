"""What if: the score of a plan at every value of one setting of some layers."""

from __future__ import annotations

import csv
import io
import json
import re
from fractions import Fraction

from micronet.recipe.layer_patterns import layers_meant
from micronet.scoring.comparison import signed
from micronet.scoring.count import Score, score_subject
from micronet.scoring.search.changes import Change, changed, check_is_plan
from micronet.utils.errors import UserError, nearest
from micronet.utils.number_format import decimal, exact, fixed, grid, markdown_grid

_NUMBER = r"\d+(?:\.\d+)?"
_SPEC = re.compile(rf"(.+)=(\w+):({_NUMBER})\.\.({_NUMBER})(?:/({_NUMBER}))?")
_STEPS = {"bits": Fraction(1), "inputs": Fraction(1), "sparsity": Fraction(1, 10)}


def sweep(spec: str, base: Score, form: str) -> str:
    """Return the score at each value of a setting, and how it differs from the plan's.

    Args:
        spec: ``LAYERS=WHAT:A..B`` or ``LAYERS=WHAT:A..B/STEP``: a layer's name or a shell pattern;
            ``bits`` (of weights), ``inputs`` (bits of the layers' inputs) or ``sparsity``.
        base: the plan's score.
        form: "text", "markdown", "csv" or "json".

    Raises:
        UserError: it is no such text, no layer or no allowed value, or the network is no plan.
    """
    check_is_plan(base.subject, "--sweep")
    pattern, what, values = _parse(spec)
    layers = layers_meant(base.subject.layers, pattern, f"--sweep {spec!r}")
    results = []
    for value in values:
        change = Change(**{what: value})
        if problem := change.problem():
            raise UserError(f"--sweep {spec!r}: {problem}")
        subject = changed(base.subject, dict.fromkeys(layers, change))
        results.append((value, score_subject(subject, base.rules, base.track, base.ops)))
    return _written(what, layers, base, results, form)


def _parse(spec: str) -> tuple[str, str, list[Fraction]]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"--sweep {spec!r} is not of the form LAYERS=bits:2..8")
    pattern, what, low, high, step = match.groups()
    if what not in _STEPS:
        known = ", ".join(_STEPS)
        raise UserError(f"--sweep {spec!r}: {what!r} is none of {known}{nearest(what, _STEPS)}")
    begin, end, each = Fraction(low), Fraction(high), Fraction(step or _STEPS[what])
    if end < begin or each == 0:
        raise UserError(f"--sweep {spec!r} names no value")
    return pattern, what, [begin + i * each for i in range(int((end - begin) / each) + 1)]


def _written(
    what: str, layers: list[str], base: Score, results: list[tuple[Fraction, Score]], form: str
) -> str:
    if form in ("json", "csv"):
        records = [_record(what, value, result, base) for value, result in results]
        return json.dumps(records, indent=2) if form == "json" else _csv(records)
    rows = [[what, "storage", "operations", "score", "change"]]
    for value, result in results:
        sums = [fixed(result.storage, 2), fixed(result.operations, 2), fixed(result.score, 6)]
        rows.append([decimal(value), *sums, signed(result.score - base.score)])
    table = (markdown_grid if form == "markdown" else grid)(rows)
    shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    return f"{table}\n\n{what} of {shown}; score as planned {fixed(base.score, 6)}"


def _record(what: str, value: Fraction, result: Score, base: Score) -> dict[str, str]:
    return {
        what: decimal(value),
        "storage": exact(result.storage),
        "operations": exact(result.operations),
        "score_exact": exact(result.score),
        "score": decimal(result.score),
        "change": exact(result.score - base.score),
    }


def _csv(records: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")
