"""``python -m micronet.demo``: a network becomes small on real handwritten digits, in minutes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from micronet.cli import pipeline
from micronet.cli.train_arguments import Parser
from micronet.utils.errors import UserError, reports_user_errors

# As few epochs as a stage's recipe allows: the target sparsity is reached in the sixth. All stages
# take images of the first one's size.
QUICK = {
    "fit": ["--epochs", "1", "--image-size", "16"],
    "prune": ["--epochs", "6"],
    "qat": ["--epochs", "1"],
}


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Fit, prune, quantize under distillation, evaluate and score; return the exit code."""
    parser: argparse.ArgumentParser = Parser(prog="python -m micronet.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="replaced if a demo's")
    parser.add_argument("--quick", action="store_true", help="small images, few epochs")
    args = parser.parse_args(argv)
    out = args.out
    _clear(out)
    stages(out, QUICK if args.quick else {})
    results = [pipeline.result_of(out / stage) for stage in ("fit", "prune", "qat")]
    print("\nTop-1 on the test digits; storage, ops and score as the challenge counts them:\n")
    print(pipeline.table(results))
    print(f"\nLook into {out}: metrics.jsonl, summary.csv and checkpoints of every stage.")
    return 0


def stages(out: Path, options: Mapping[str, Sequence[str]]) -> None:
    """Train the three stages, each from the one before; the dense network is the teacher.

    Args:
        out: the folder that gets a run of each stage.
        options: what a stage is given besides its recipe.
    """
    fit, pruned, quantized = out / "fit", out / "prune", out / "qat"
    starts: dict[str, list[str | Path]] = {
        "fit": ["--arch", "efficientnet-micro", "--data", "digits", "--out", fit],
        "prune": ["--from", fit, "--out", pruned],
        "qat": ["--from", pruned, "--teacher", fit, "--out", quantized],
    }
    for stage, start in starts.items():
        more = options.get(stage, ())
        pipeline.run_stage([stage, *start, "--schedule", f"demo_{stage}", *more])


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
