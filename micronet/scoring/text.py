"""How a score is shown: totals, tables by kind and by cost, accumulator proofs, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from micronet.scoring.count import Score, by_kind
from micronet.scoring.network.accumulators import Proof, prove
from micronet.scoring.rules.rule_set import Cost
from micronet.scoring.rules.tracks import Verdict
from micronet.scoring.tables import layer_records
from micronet.utils.number_format import decimal, exact, fixed, grid, rounded, share

CLAIM = (
    "additions may be claimed at these widths only where the engine that gave the accuracy executes"
    " them at these widths, or proves these bounds"
)


def totals(result: Score, verdict: Verdict | None = None) -> str:
    """Return the totals as text, one line each."""
    subject = result.subject
    fraction = f" (exact {decimal(result.storage)})" if result.storage.denominator != 1 else ""
    lines = [
        f"network  {subject.arch} at {subject.image_size}x{subject.image_size}, {subject.name}",
        f"weights  {result.nonzeros} of {result.weights} are not zero, "
        f"sparsity {float(result.sparsity):.4f}, {subject.zeros_source}",
        f"bits     {subject.precision_source}",
        f"rules    {result.rules.name}, track {result.track.name}"
        + (f", accumulator {subject.accumulator}" if _bills_accumulators(result) else ""),
        f"storage  {rounded(result.storage)}{fraction}, dense {decimal(result.storage_dense)}, "
        f"ratio {share(result.storage, result.storage_dense)}",
        f"ops      {decimal(result.operations)}, dense {decimal(result.operations_dense)}, "
        f"ratio {share(result.operations, result.operations_dense)}",
        f"score    {fixed(result.score, 6)}",
    ]
    return "\n".join(lines + ([f"verdict  {verdict.sentence}"] if verdict else []))


def _bills_accumulators(result: Score) -> bool:
    return result.rules.bills_accumulators


def published(figures: Mapping[str, str]) -> str:
    """Return the figures of a rule set's own program, one line each."""
    return "\n".join(["as published", *(f"  {name} {text}" for name, text in figures.items())])


def one_by_one(costs: Iterable[Cost]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return (used, dense) of every single cost, keyed by its number, kind and name."""
    return {
        f"{index:4d} {cost.kind:15s} {cost.name}": (cost.used, cost.dense)
        for index, cost in enumerate(costs)
    }


def table(title: str, rows: Mapping[str, tuple[Fraction, Fraction]]) -> str:
    """Return costs as a table of label, used and dense."""
    head = [title, "used", "dense"]
    return grid([head, *([k, decimal(u), decimal(d)] for k, (u, d) in rows.items())])


def proofs(result: Score) -> str:
    """Return how wide the accumulator of every layer must be, and why, as a table."""
    head = ["layer", "products", "largest sum", "width", "tree ends", "tree mean", "from"]
    rows = [_proof_row(prove(facts)) for facts in result.layers.values()]
    return grid([head, *rows]) + f"\n{CLAIM}"


def _proof_row(proof: Proof) -> list[str]:
    bound = "" if proof.bound is None else str(proof.bound)
    mean = f"{proof.tree_mean:.2f}"
    numbers = [str(proof.products), bound, str(proof.width), str(proof.tree_width), mean]
    return [proof.layer, *numbers, proof.source]


def as_json(
    result: Score, verdict: Verdict | None = None, is_published: bool = False, layers: bool = False
) -> str:
    """Return one JSON object; its exact numbers are strings, decimals or ``p/q``."""
    return json.dumps(as_record(result, verdict, is_published, layers), indent=2)


def as_record(
    result: Score, verdict: Verdict | None, is_published: bool, layers: bool
) -> dict[str, Any]:
    """Return what ``as_json`` writes."""
    subject = result.subject
    record: dict[str, Any] = {
        "network": subject.name,
        "arch": subject.arch,
        "image_size": subject.image_size,
        "rules": result.rules.name,
        "track": result.track.name,
        "bits": subject.precision_source,
        "zeros": subject.zeros_source,
        "weights": result.weights,
        "weights_nonzero": result.nonzeros,
        "storage": exact(result.storage),
        "storage_bits": exact(result.storage_bits),
        "storage_dense": exact(result.storage_dense),
        "operations": exact(result.operations),
        "operations_dense": exact(result.operations_dense),
        "score_exact": exact(result.score),
        "score": float(result.score),
        "storage_by_kind": _sums(result.stored),
        "operations_by_kind": _sums(result.executed),
        "layers": layer_records(result),
    }
    if _bills_accumulators(result):
        record["accumulator"] = subject.accumulator
        record["accumulator_proofs"] = [vars(prove(f)) for f in result.layers.values()]
    if verdict:
        record["verdict"] = {"sentence": verdict.sentence, "passed": verdict.passed}
    if is_published:
        record["published"] = result.published()
    if layers:
        record["storage_entries"] = [_cost(cost) for cost in result.stored]
        record["operations_list"] = [_cost(cost) for cost in result.executed]
    return record


def _sums(costs: Iterable[Cost]) -> dict[str, dict[str, str]]:
    sums = by_kind(costs).items()
    return {kind: {"used": exact(used), "dense": exact(dense)} for kind, (used, dense) in sums}


def _cost(cost: Cost) -> dict[str, str]:
    record = {"name": cost.name, "kind": cost.kind, "layer": cost.layer}
    numbers = {"used": exact(cost.used), "dense": exact(cost.dense)}
    said = {"part": cost.part, "note": cost.note}
    return record | numbers | {key: value for key, value in said.items() if value}
