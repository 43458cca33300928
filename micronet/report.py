"""``python -m micronet.report RUN [RUN ...]``: one HTML page of what runs did and cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micronet import report_facts
from micronet.checkpoint import write_atomically
from micronet.errors import UserError, reports_user_errors
from micronet.options import Parser
from micronet.report_page import page


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs and write the page; return the exit code."""
    parser: argparse.ArgumentParser = Parser(prog="python -m micronet.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--out", type=Path, help="default: report.html in the first run")
    args = parser.parse_args(argv)
    out = args.out or Path(args.runs[0]) / "report.html"
    if len(set(args.runs)) < len(args.runs):
        raise UserError("a run is named twice")
    write_atomically(out, page([report_facts.read(run) for run in args.runs]).encode())
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
