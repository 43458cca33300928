"""The table of the comparison: mean and deviation over seeds, and the difference to dense."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.harness import report
from benchmarks.pipeline.recipes.runs import Case, NotRun, Outcome, Result
from benchmarks.pipeline.recipes.variants import DENSE, Epochs


@dataclass(frozen=True)
class Row:
    """One variant of one network; numbers are means over the seeds that were run."""

    network: str
    variant: str
    seeds: int
    top1: float | None = None
    deviation: float | None = None
    to_dense: float | None = None
    sparsity: float | None = None
    bits: str = ""
    score: float | None = None
    minutes: float | None = None
    note: str = ""


def rows(found: Mapping[Case, Outcome]) -> list[Row]:
    """Return one row for each network and variant."""
    together: dict[tuple[str, str], dict[int, Outcome]] = {}
    for case, outcome in found.items():
        together.setdefault((case.network, case.variant), {})[case.seed] = outcome
    return [
        _row(network, variant, outcomes, together[network, DENSE])
        for (network, variant), outcomes in sorted(together.items(), key=lambda item: item[0][0])
    ]


def _row(
    network: str, variant: str, outcomes: Mapping[int, Outcome], dense: Mapping[int, Outcome]
) -> Row:
    results = {seed: r for seed, r in outcomes.items() if isinstance(r, Result)}
    reasons = dict.fromkeys(str(r) for r in outcomes.values() if isinstance(r, NotRun))
    note = f"not run: {'; '.join(reasons)}" if reasons else ""
    if not results:
        return Row(network, variant, 0, note=note)
    top1 = [r.top1 for r in results.values()]
    starts = {seed: r for seed, r in dense.items() if isinstance(r, Result)}
    # Seed by seed: what a start is worth is no noise of the variant.
    differences = [r.top1 - starts[seed].top1 for seed, r in results.items()]
    some = next(iter(results.values()))
    return Row(
        network,
        variant,
        seeds=len(results),
        top1=round(statistics.mean(top1), 2),
        deviation=round(statistics.stdev(top1), 2) if len(top1) > 1 else None,
        to_dense=round(statistics.mean(differences), 2),
        sparsity=round(100 * statistics.mean(r.sparsity for r in results.values()), 1),
        bits=some.bits,
        score=round(statistics.mean(r.score for r in results.values()), 6),
        minutes=round(statistics.mean(r.minutes for r in results.values()), 1),
        note=note,
    )


_HEAD = ("variant", "seeds", "top-1", "deviation", "to dense", "zeros", "bits", "score", "minutes")


def markdown(found: list[Row], epochs: Epochs, facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    about = (
        f"Made by `make bench-recipes`: {epochs.fit} epochs in float (`dense`), {epochs.prune} to "
        f"60 % zeros in all but stem, classifier and depthwise layers, {epochs.qat} at 4/4 bits, "
        "taught by `dense`. Top-1 in per cent on the test images, which chose nothing: checkpoints "
        "are chosen on a tenth of the training images. Deviation is over seeds; the difference to "
        "dense is taken seed by seed. The recipes are the table of "
        "`benchmarks/pipeline/recipes/variants.py`; `+` adds a key to the variant before it: `bn` "
        "re-estimated statistics, `freeze` oscillating weights, `progressive` bits."
    )
    text = ["# Recipes on CIFAR-10", "", about, ""]
    for network in dict.fromkeys(row.network for row in found):
        own = [row for row in found if row.network == network]
        lines = [_HEAD, ("---", *["--:"] * (len(_HEAD) - 1))]
        lines += [_cells(row) for row in own]
        text += [f"## {network}", "", *("| " + " | ".join(line) + " |" for line in lines), ""]
        notes = [f"- `{row.variant}` {row.note}" for row in own if row.note]
        text += [*notes, ""] if notes else []
    return "\n".join([*text, report.facts(facts)]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        f"`{row.variant}`",
        str(row.seeds),
        number(row.top1, ".2f"),
        number(row.deviation, ".2f"),
        number(row.to_dense, "+.2f"),
        "" if row.sparsity is None else f"{row.sparsity:.1f} %",
        row.bits,
        number(row.score, ".6f"),
        number(row.minutes, ".1f"),
    )
