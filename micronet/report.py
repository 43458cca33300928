"""``python -m micronet.report RUN [RUN ...]``: one HTML page of what runs did and cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micronet.cli.score_arguments import rules_named
from micronet.cli.train_arguments import Parser, add_own, allow_own
from micronet.reporting import facts, png
from micronet.reporting.page import page
from micronet.runs.checkpoint import write_atomically
from micronet.scoring.count import DEFAULT_RULES
from micronet.scoring.rules.tracks import DEFAULT, find
from micronet.utils.errors import UserError, reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs and write the page; return the exit code."""
    parser: argparse.ArgumentParser = Parser(prog="python -m micronet.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--out", type=Path, help="default: report.html in the first run")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="its pictures as files too")
    parser.add_argument("--rules", default=DEFAULT_RULES.name, help="rule set of the score")
    parser.add_argument("--track", default=DEFAULT.name, help="whose baselines divide it")
    add_own(parser)
    args = parser.parse_args(argv)
    allow_own(vars(args))
    if args.png:
        png.require_package()
    out = args.out or Path(args.runs[0]) / "report.html"
    if len(set(args.runs)) < len(args.runs):
        raise UserError("a run is named twice")
    rules, track = rules_named(args.rules), find(args.track)
    text = page([facts.read(run, rules, track) for run in args.runs])
    write_atomically(out, text.encode())
    print(f"written: {out}")
    if args.png:
        print(f"written: {png.write(text, args.png)} pictures in {args.png}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
