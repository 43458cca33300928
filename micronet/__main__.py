"""The console command ``micronet``: ``micronet train ...`` is ``python -m micronet.train ...``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from micronet.utils.errors import UserError, nearest, reports_user_errors

PROGRAMS = {
    "train": "fit, prune and quantize a network, evaluate and describe it",
    "score": "count storage and operations exactly",
    "export": "write a compressed network as one file of packed codes",
    "report": "write one HTML page of runs",
    "demo": "make a network small on handwritten digits, in minutes",
}


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that the first word names with the others; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    program, *rest = words
    if program not in PROGRAMS:
        raise UserError(f"there is no program {program!r}{nearest(program, PROGRAMS)}")
    # Loaded when it is asked for: the others would only cost time.
    return int(importlib.import_module(f"micronet.{program}").main(rest))


def _usage() -> str:
    width = max(map(len, PROGRAMS))
    rows = [f"  {name:<{width}}  {text}" for name, text in PROGRAMS.items()]
    return "\n".join(["usage: micronet PROGRAM [options]", "", *rows])


if __name__ == "__main__":
    sys.exit(main())
