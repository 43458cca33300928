"""``make bench-accuracy``: resnet20 on CIFAR-10, dense, pruned to 60 %, and at 4/4 bits.

Every stage is a public command. The checkpoints are chosen on a tenth of the training images; the
10,000 images of ``val/`` are a test set that is looked at once, at the end. Prints a table, writes
it with the machine and versions under ``benchmarks/results/``, and ends with one RESULT line.
"""

import argparse
import json
import os
import statistics
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.harness.machine import ROOT
from micronet.cli import pipeline
from micronet.utils.errors import UserError, reports_user_errors

ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10.tar.xz"
RESULTS = ROOT / "benchmarks" / "results"
STAGES = ("fit", "prune", "qat")


def images() -> Path:
    """Return the image folder: CIFAR10_DIR, or the archive unpacked below .data/."""
    given = os.environ.get("CIFAR10_DIR")
    if given:
        return Path(given)
    unpacked = ROOT / ".data" / "cifar10"
    if not unpacked.exists():
        if not ARCHIVE.exists():
            raise UserError("set CIFAR10_DIR to a folder of CIFAR-10 images: train/ and val/")
        beside = unpacked.with_name("cifar10.tmp")
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(beside, filter="data")
        (beside / "cifar10").rename(unpacked)
        beside.rmdir()
    return unpacked


def recipe_of(stage: str) -> Path:
    """Return the file of a stage's recipe."""
    return ROOT / "schedules" / f"cifar10_resnet20_{stage}.yaml"


def run_stage(stage: str, recipe: Path, runs: Path, source: Sequence[str | Path | int]) -> Path:
    """Train one stage from those before it in `runs`; return its run directory.

    A stage that is finished is not run again. `source` is options on data and chance.
    """
    run = runs / stage
    start = {
        "fit": ["--arch", "resnet20"],
        "prune": ["--from", runs / "fit"],
        "qat": ["--from", runs / "prune", "--teacher", runs / "fit"],
    }
    arguments = [stage, *source, *start[stage], "--schedule", recipe, "--out", run]
    resume = ["--resume"] if (run / "config.json").exists() else []
    pipeline.run_stage([*arguments, *resume])
    return run


def run_seed(data: Path, out: Path, seed: int) -> list[pipeline.StageResult]:
    """Train the three stages with one seed."""
    source = ["--data", data, "--holdout", "0.1", "--seed", seed]
    runs = [run_stage(stage, recipe_of(stage), out / f"seed{seed}", source) for stage in STAGES]
    return [pipeline.result_of(run) for run in runs]


def summarize(seeds: dict[int, list[pipeline.StageResult]]) -> dict[str, float]:
    """Return the medians over seeds that the RESULT line holds; top-1 and sparsity in per cent."""

    def median(index: int) -> float:
        return statistics.median(stages[index].accuracy.top1 for stages in seeds.values())

    minutes = (sum(stage.minutes for stage in stages) for stages in seeds.values())
    return {
        "dense_top1": round(median(0), 2),
        "pruned_top1": round(median(1), 2),
        "qat_top1": round(median(2), 2),
        "sparsity": round(100 * min(stages[2].sparsity for stages in seeds.values()), 2),
        "minutes": round(statistics.median(minutes), 1),
    }


def write(seeds: dict[int, list[pipeline.StageResult]], summary: dict[str, float]) -> str:
    """Write the Markdown table and the JSON beside it; return the Markdown."""
    facts = machine.describe()
    text = ["# resnet20 on CIFAR-10 (JPEG images): dense, pruned, 4/4 bits", ""]
    text += [
        "Made by `make bench-accuracy`. Top-1 on the 10,000 test images, which chose nothing: "
        "checkpoints were chosen on a tenth of the training images. `qat` is distilled from `fit`. "
        "Storage, ops and score as the challenge counts them.",
        "",
    ]
    for seed, stages in seeds.items():
        times = ", ".join(f"{s.stage} {s.epochs} epochs {s.minutes:.1f} min" for s in stages)
        text += [f"Seed {seed}: {times}.", "", pipeline.table(stages), ""]
    text += [f"- {name}: {value}" for name, value in facts.items()]
    markdown = "\n".join(text) + "\n"
    record = {
        "summary": summary,
        "machine": facts,
        "seeds": {
            seed: [
                {
                    "stage": s.stage,
                    "correct": s.accuracy.correct,
                    "total": s.accuracy.total,
                    "ties": s.accuracy.ties,
                    "sparsity": s.sparsity,
                    "bits": s.bits,
                    "epochs": s.epochs,
                    "minutes": s.minutes,
                    "score": float(s.score.score),
                }
                for s in stages
            ]
            for seed, stages in seeds.items()
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "cifar10_resnet20.md").write_text(markdown)
    (RESULTS / "cifar10_resnet20.json").write_text(json.dumps(record, indent=2) + "\n")
    return markdown


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Run every seed, print the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "cifar10")
    args = parser.parse_args(argv)
    data = images()
    seeds = {seed: run_seed(data, args.out, seed) for seed in args.seeds}
    summary = summarize(seeds)
    print(write(seeds, summary))
    print("RESULT " + json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
