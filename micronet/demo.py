"""``python -m micronet.demo``: a network becomes small on real handwritten digits, in minutes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from micronet.cli import pipeline
from micronet.cli.train_arguments import Parser
from micronet.utils.errors import UserError, reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Fit, prune, quantize under distillation, evaluate and score; return the exit code."""
    parser: argparse.ArgumentParser = Parser(prog="python -m micronet.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="replaced if a demo's")
    out = parser.parse_args(argv).out
    _clear(out)
    stages(out)
    results = [pipeline.result_of(out / stage) for stage in ("fit", "prune", "qat")]
    print("\nTop-1 on the test digits; storage, ops and score as the challenge counts them:\n")
    print(pipeline.table(results))
    print(f"\nLook into {out}: metrics.jsonl, summary.csv and checkpoints of every stage.")
    return 0


def stages(out: Path) -> None:
    """Train the three stages, each from the one before; the dense network is the teacher."""
    fit, pruned, quantized = out / "fit", out / "prune", out / "qat"
    start: list[str | Path] = ["fit", "--arch", "efficientnet-micro", "--data", "digits"]
    pipeline.run_stage([*start, "--schedule", "demo_fit", "--out", fit])
    start = ["prune", "--from", fit]
    pipeline.run_stage([*start, "--schedule", "demo_prune", "--out", pruned])
    start = ["qat", "--from", pruned, "--teacher", fit]
    pipeline.run_stage([*start, "--schedule", "demo_qat", "--out", quantized])


def _clear(out: Path) -> None:
    """Remove an earlier demo, and nothing else.

    Raises:
        UserError: the folder holds something that no demo wrote.
    """
    if not out.exists():
        return
    foreign = [p for p in out.iterdir() if not (p / "config.json").exists()]
    if foreign:
        raise UserError(f"{str(out)!r} holds {foreign[0].name!r}, which is no demo's: give --out")
    shutil.rmtree(out)


if __name__ == "__main__":
    sys.exit(main())
