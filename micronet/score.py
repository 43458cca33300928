"""``python -m micronet.score``: storage and operations of a network, counted exactly.

Counts a plan (an architecture and targets, no training needed), a run, a checkpoint or a file of
weights, compares several, and asks what another precision or sparsity would give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from micronet import score_options, score_text
from micronet.errors import reports_user_errors
from micronet.options import allow_own
from micronet.score_compare import comparison
from micronet.score_count import RULES, Score, by_kind, score_model, score_subject
from micronet.score_proposal import propose
from micronet.score_tables import layer_csv, layer_table
from micronet.score_waterfall import write_waterfall
from micronet.score_whatif import sweep
from micronet.subject import Subject, describe, from_plan, from_run, from_weights
from micronet.tracks import Verdict, find

__all__ = [
    "RULES",
    "Score",
    "Subject",
    "describe",
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
    args = score_options.parser().parse_args(argv)
    allow_own(vars(args))
    rules, track = score_options.rules_named(args.rules), find(args.track)
    score_options.check(args, rules)
    verdict = score_options.verdict(args.result, track) if args.result else None
    subjects = score_options.subjects(args, rules)
    results = [score_subject(subject, rules, track) for subject in subjects]
    if args.waterfall:
        write_waterfall(args.waterfall, results)
    if args.compare:
        print(comparison(results, _format(args)))
    elif args.sweep:
        print(sweep(args.sweep, results[0], _format(args)))
    elif args.search:
        print(propose(args, results[0], score_options.plan_named(args), _format(args)))
    else:
        print(_one(args, results[0], verdict))
    return 0


def _format(args: argparse.Namespace) -> str:
    return next((name for name in ("json", "csv", "markdown") if getattr(args, name)), "text")


def _one(args: argparse.Namespace, result: Score, verdict: Verdict | None) -> str:
    """Return one score as it was asked for."""
    if args.json:
        return score_text.as_json(result, verdict, args.as_published, args.entries)
    if args.csv:
        return layer_csv(result)
    totals = score_text.totals(result, verdict)
    if args.markdown:
        return f"{layer_table(result, markdown=True)}\n\n```\n{totals}\n```"
    parts = [layer_table(result)] if args.layers else []
    rows = score_text.one_by_one if args.entries else by_kind
    parts += [
        score_text.table("storage of", rows(result.stored)),
        score_text.table("operations of", rows(result.executed)),
    ]
    if args.proof or result.subject.accumulator != "32":
        parts.append(score_text.proofs(result))
    parts.append(totals)
    if args.as_published:
        parts.append(score_text.published(result.published()))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
