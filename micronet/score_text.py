"""How a score is shown: exact numbers, tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from micronet.rules import Cost

if TYPE_CHECKING:
    from micronet.score import Score


def decimal(value: Fraction) -> str:
    """Write a fraction as a decimal: exactly where it ends, else to six places."""
    if not _ends(value):
        return f"{float(value):.6f}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    whole, digits = divmod(int(value * 10**places), 10**places)
    return f"{whole}.{digits:0{places}d}" if places else str(whole)


def exact(value: Fraction) -> str:
    """Write a fraction without loss: as a decimal where it ends, else as ``p/q``."""
    return decimal(value) if _ends(value) else str(value)


def _ends(value: Fraction) -> bool:
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


def rounded(value: Fraction) -> int:
    """Round half up, as the 2019 entry printed its storage."""
    return (2 * value + 1).__floor__() // 2


def totals(result: Score, as_published: bool) -> str:
    """Return the totals as text, one line each."""
    subject = result.subject
    operations = result.published_operations if as_published else result.operations
    score = result.score_with(operations)
    fraction = f" (exact {decimal(result.storage)})" if result.storage.denominator != 1 else ""
    lines = [
        f"network  {subject.arch} at {subject.image_size}x{subject.image_size}, {subject.name}",
        f"weights  {result.nonzeros} of {result.weights} are not zero, "
        f"sparsity {float(result.sparsity):.4f}",
        f"bits     {subject.precision_source}",
        f"rules    {result.rules.NAME}{', as published' if as_published else ''}",
        f"storage  {rounded(result.storage)}{fraction}, dense {decimal(result.storage_dense)}, "
        f"ratio {float(result.storage / result.storage_dense):.4f}",
        f"ops      {decimal(operations)}, dense {decimal(result.operations_dense)}, "
        f"ratio {float(operations / result.operations_dense):.4f}",
        f"score    {float(score):.6f}",
    ]
    return "\n".join(lines)


def by_kind(costs: Iterable[Cost]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return (used, dense) sums per kind, in order of first appearance."""
    sums: dict[str, tuple[Fraction, Fraction]] = {}
    for cost in costs:
        used, dense = sums.get(cost.kind, (Fraction(0), Fraction(0)))
        sums[cost.kind] = (used + cost.used, dense + cost.dense)
    return sums


def one_by_one(costs: Iterable[Cost]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return (used, dense) of every single cost, keyed by its number, kind and name."""
    return {
        f"{index:4d} {cost.kind:15s} {cost.name}": (cost.used, cost.dense)
        for index, cost in enumerate(costs)
    }


def table(title: str, rows: Mapping[str, tuple[Fraction, Fraction]]) -> str:
    """Return costs as a table of label, used and dense."""
    width = max(len(key) for key in [title, *rows])
    head = f"{title:{width}s} {'used':>16s} {'dense':>14s}"
    body = [f"{k:{width}s} {decimal(u):>16s} {decimal(d):>14s}" for k, (u, d) in rows.items()]
    return "\n".join([head, *body])


def as_json(result: Score, as_published: bool, layers: bool) -> str:
    """Return one JSON object; its exact numbers are strings, decimals or ``p/q``."""
    subject = result.subject
    record: dict[str, Any] = {
        "network": subject.name,
        "arch": subject.arch,
        "image_size": subject.image_size,
        "rules": result.rules.NAME,
        "bits": subject.precision_source,
        "weights": result.weights,
        "weights_nonzero": result.nonzeros,
        "storage": exact(result.storage),
        "storage_dense": exact(result.storage_dense),
        "operations": exact(result.operations),
        "operations_dense": exact(result.operations_dense),
        "score_exact": exact(result.score),
        "score": float(result.score),
        "storage_by_kind": _sums(result.stored),
        "operations_by_kind": _sums(result.executed),
    }
    if as_published:
        record["operations_published"] = exact(result.published_operations)
        record["score_published"] = float(result.score_with(result.published_operations))
    if layers:
        record["storage_entries"] = [_cost(cost) for cost in result.stored]
        record["operations_list"] = [_cost(cost) for cost in result.executed]
    return json.dumps(record, indent=2)


def _sums(costs: Iterable[Cost]) -> dict[str, dict[str, str]]:
    sums = by_kind(costs).items()
    return {kind: {"used": exact(used), "dense": exact(dense)} for kind, (used, dense) in sums}


def _cost(cost: Cost) -> dict[str, str]:
    used, dense = exact(cost.used), exact(cost.dense)
    return {"name": cost.name, "kind": cost.kind, "used": used, "dense": dense}
