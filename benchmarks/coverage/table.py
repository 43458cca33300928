"""The table of what works of each family, and the sentences below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.coverage import networks
from benchmarks.coverage.examination import STEPS, Coverage
from benchmarks.harness import report

ABOUT = (
    "Made by `make coverage`. Each network has random weights, and images of the least side that "
    "it trains on. It is pruned to half and trained for an epoch of four steps, with weights and "
    "inputs of 4 bits whose steps follow their range, by a recipe that names no layer and by the "
    "commands that a user types. *integers*: share of the multiply-adds with weights that train on "
    "integers. *exact*: three images have logits of the same bits at once on one thread and one by "
    "one on two. *saving*: what is read back is what was written."
)
_SHOWN = {True: "yes", False: "no", None: "-"}


def summary(row: Coverage) -> str:
    """Return one network as a line."""
    works = [f"{step} {_SHOWN[row.works.get(step)]}" for step in STEPS]
    said = [f"; {step}: {text}" for step, text in (row.refusals | row.crashes).items()]
    parts = [f"{row.integer_macs:.1%} in integers", *works, f"{row.seconds:.0f} s"]
    return ", ".join(parts) + "".join(said)


def totals(rows: Sequence[Coverage]) -> dict[str, object]:
    """Return the figures of all rows."""
    kinds = {name: kind for name, (_, kind) in networks.every().items()}
    cnns = [row for row in rows if kinds[row.name] == "CNN"]
    return {
        "networks": len(rows),
        "cnn_families": len(cnns),
        "cnn_families_95_percent_in_integers": sum(row.integer_macs >= 0.95 for row in cnns),
        "everything_works": sum(all(row.works.get(step) for step in STEPS) for row in rows),
        "crashes": sum(bool(row.crashes) for row in rows),
    }


def markdown(rows: Sequence[Coverage], facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    head = ["network", "family", "side", "layers", "integers", *STEPS]
    lines = ["| " + " | ".join(head) + " |", "|---|---|--:|--:|--:|" + "---|" * len(STEPS)]
    for row in rows:
        layers = f"{row.integer_layers} of {row.layers}"
        cells = [f"`{row.name}`", row.family, str(row.size), layers, f"{row.integer_macs:.1%}"]
        cells += [_SHOWN[row.works.get(step)] for step in STEPS]
        lines.append("| " + " | ".join(cells) + " |")
    figures = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in totals(rows).items())
    parts = ["# Coverage of networks", ABOUT, f"{figures[0].upper()}{figures[1:]}."]
    parts += ["\n".join(lines), *_sentences(rows), report.facts(facts)]
    return "\n\n".join(parts) + "\n"


def _sentences(rows: Sequence[Coverage]) -> list[str]:
    left = [f"- `{r.name}`: {n} layers, {why}" for r in rows for why, n in r.left.items()]
    said = [
        f"- `{r.name}`, {step}: {text.removeprefix('error: ')}"
        for r in rows
        for step, text in (r.refusals | r.crashes).items()
    ]
    parts = []
    for title, lines in (("Left in float", left), ("What does not work, and what is said", said)):
        if lines:
            parts += [f"## {title}", "\n".join(lines)]
    return [*parts, "## Machine"]
