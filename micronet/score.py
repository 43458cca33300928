"""``python -m micronet.score``: storage and operations of a network, counted exactly.

Counts a plan (an architecture and targets, no training needed), a run, a checkpoint or a file of
weights, compares several, and asks what another precision or sparsity would give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from micronet.cli import score_arguments
from micronet.cli.train_arguments import allow_own
from micronet.scoring import text
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
    args = score_arguments.parser().parse_args(argv)
    allow_own(vars(args))
    rules, track = score_arguments.rules_named(args.rules), find(args.track)
    score_arguments.check(args, rules)
    verdict = score_arguments.verdict(args.result, track) if args.result else None
    subjects = score_arguments.subjects(args, rules)
    results = [score_subject(subject, rules, track) for subject in subjects]
    if args.waterfall:
        write_waterfall(args.waterfall, results)
    if args.compare:
        print(comparison(results, _format(args)))
    elif args.sweep:
        print(sweep(args.sweep, results[0], _format(args)))
    elif args.search:
        print(propose(args, results[0], score_arguments.plan_named(args), _format(args)))
    else:
        print(_one(args, results[0], verdict))
    return 0


def _format(args: argparse.Namespace) -> str:
    return next((name for name in ("json", "csv", "markdown") if getattr(args, name)), "text")


def _one(args: argparse.Namespace, result: Score, verdict: Verdict | None) -> str:
    """Return one score as it was asked for."""
    if args.json:
        return text.as_json(result, verdict, args.as_published, args.entries)
    if args.csv:
        return layer_csv(result)
    totals = text.totals(result, verdict)
    if args.markdown:
        return f"{layer_table(result, markdown=True)}\n\n```\n{totals}\n```"
    parts = [layer_table(result)] if args.layers else []
    rows = text.one_by_one if args.entries else by_kind
    parts += [
        text.table("storage of", rows(result.stored)),
        text.table("operations of", rows(result.executed)),
    ]
    if args.proof or result.subject.accumulator != "32":
        parts.append(text.proofs(result))
    parts.append(totals)
    if args.as_published:
        parts.append(text.published(result.published()))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
