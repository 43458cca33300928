"""``python -m micronet.score``: storage and operations of a network, counted exactly.

Counts a plan (an architecture and targets, no training needed), a run, a checkpoint or a file of
weights, compares several, and asks what another precision or sparsity would give.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from micronet.cli import score_arguments
from micronet.cli.options import ScoreOptions
from micronet.scoring import count, text
from micronet.scoring.comparison import comparison
from micronet.scoring.count import RULES, Score, by_kind, score_model, score_subject
from micronet.scoring.network.scored_network import (
    ScoredNetwork,
    describe_network,
    from_plan,
    from_run,
    from_weights,
)
from micronet.scoring.rules.tracks import Verdict, find
from micronet.scoring.search.proposal import propose
from micronet.scoring.search.what_if import sweep
from micronet.scoring.tables import layer_csv, layer_table
from micronet.scoring.waterfall import write_waterfall
from micronet.utils.errors import reports_user_errors

__all__ = [
    "RULES",
    "Score",
    "ScoredNetwork",
    "describe_network",
    "from_plan",
    "from_run",
    "from_weights",
    "main",
    "score_model",
    "score_subject",
]


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; return the process's exit code."""
    options = score_arguments.parse(argv)
    rules, track = score_arguments.rules_named(options.rules), find(options.track)
    score_arguments.check(options, rules)
    verdict = score_arguments.verdict(options.result, track) if options.result else None
    subjects = score_arguments.subjects(options, rules)
    results = [score_subject(subject, rules, track) for subject in subjects]
    if options.waterfall:
        write_waterfall(options.waterfall, results)
    if options.compare:
        print(comparison(results, options.form))
    elif options.sweep:
        print(sweep(options.sweep, results[0], options.form))
    elif options.search:
        plan = score_arguments.plan_named(options)
        found = propose(
            results[0],
            plan,
            options.search,
            options.proposal,
            str(options.target),
            options.form,
        )
        print(found)
    else:
        print(_one(options, results[0], verdict))
    return 0


def _one(options: ScoreOptions, result: Score, verdict: Verdict | None) -> str:
    """Return one score as it was asked for."""
    if options.form == "json":
        return text.as_json(result, verdict, options.as_published, options.entries)
    if options.form == "csv":
        return layer_csv(result)
    totals = text.totals(result, verdict)
    if options.form == "markdown":
        return f"{layer_table(result, markdown=True)}\n\n```\n{totals}\n```"
    parts = [layer_table(result)] if options.layers else []
    rows = text.one_by_one if options.entries else by_kind
    parts += [
        text.table("storage of", rows(result.stored)),
        text.table("operations of", rows(result.executed)),
    ]
    if options.proof or result.subject.accumulator != "32":
        parts.append(text.proofs(result))
    parts.append(totals)
    if options.as_published:
        parts.append(text.published(result.published()))
    return "\n\n".join(parts)


class _Command(ModuleType):
    """A module that can be called: once imported, ``micronet.score`` is it, not the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Score:
        return count.score(*args, **kwargs)


sys.modules[__name__].__class__ = _Command

if __name__ == "__main__":
    sys.exit(main())
