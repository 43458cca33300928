"""``make bench-blocks-accuracy``: whether training on integers costs accuracy, on CIFAR-10.

One float resnet20 is trained; from it the recipe ``cifar10_resnet20_qat.yaml`` runs with several
seeds, once with convolutions of codes and once with the same layers computed by fake quantization
in float, as every layer that is not eligible is. Both are evaluated as deployed, in integers, on
the 10,000 test images, which chose nothing. Writes a table and ends with one RESULT line.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from benchmarks.harness import machine, report
from benchmarks.harness.machine import ROOT
from benchmarks.pipeline import accuracy
from micronet.cli import pipeline
from micronet.quantization.layers import QuantizedLayer
from micronet.utils.errors import reports_user_errors

STEM = "blocks_accuracy"
INTEGERS, FLOATS = "integers", "rounded floats"


@dataclass(frozen=True)
class Result:
    """One training with 4-bit weights and inputs, evaluated in integers."""

    arithmetic: str
    seed: int
    correct: int
    total: int
    minutes: float


@contextmanager
def trained_in(arithmetic: str) -> Iterator[None]:
    """Make quantized layers compute in integers, or none of them."""
    if arithmetic == INTEGERS:
        yield
        return
    with mock.patch.object(QuantizedLayer, "is_exact", property(lambda layer: False)):
        yield


def run_all(data: Path, out: Path, seeds: list[int], epochs: tuple[int, int]) -> list[Result]:
    """Train what is not finished yet, and evaluate all."""
    recipes = ROOT / "schedules"
    source = ["--data", data, "--holdout", "0.1"]
    start = out / "fit"
    fit = ["fit", "--arch", "resnet20", "--schedule", recipes / "cifar10_resnet20_fit.yaml"]
    _stage([*fit, *source, "--epochs", epochs[0]], start)
    results = []
    for seed in seeds:
        for arithmetic in (INTEGERS, FLOATS):
            run = out / f"{arithmetic.replace(' ', '-')}-{seed}"
            qat = ["qat", "--from", start, "--teacher", start, "--seed", seed]
            qat += ["--schedule", recipes / "cifar10_resnet20_qat.yaml", "--epochs", epochs[1]]
            with trained_in(arithmetic):
                _stage([*qat, *source], run)
            found = pipeline.result_of(run)
            counted = found.accuracy.correct, found.accuracy.total
            results.append(Result(arithmetic, seed, *counted, found.minutes))
    return results


def _stage(arguments: list[str | Path | int], run: Path) -> None:
    resume = ["--resume"] if (run / "config.json").exists() else []
    pipeline.run_stage([*map(str, arguments), "--out", str(run), *resume])


def summarize(results: list[Result]) -> dict[str, float]:
    """Return mean and standard deviation of top-1 in per cent, and the mean difference."""
    top1 = {
        arithmetic: [100 * r.correct / r.total for r in results if r.arithmetic == arithmetic]
        for arithmetic in (INTEGERS, FLOATS)
    }
    mean = {name: statistics.mean(values) for name, values in top1.items()}
    return {
        "integers_top1": round(mean[INTEGERS], 2),
        "floats_top1": round(mean[FLOATS], 2),
        "difference": round(mean[INTEGERS] - mean[FLOATS], 2),
        "integers_deviation": round(statistics.stdev(top1[INTEGERS]), 2),
        "floats_deviation": round(statistics.stdev(top1[FLOATS]), 2),
    }


def markdown(results: list[Result], epochs: tuple[int, int], facts: dict[str, str]) -> str:
    """Return the whole page."""
    about = (
        f"Made by `make bench-blocks-accuracy`: resnet20, {epochs[0]} epochs in float, then "
        f"{epochs[1]} of `cifar10_resnet20_qat.yaml`, distilled from the float network, with the "
        "arithmetic of the table; evaluated in integers on 10,000 test images."
    )
    rows = [["seed", "trained in", "correct", "top-1", "minutes"], ["--:", "---", *["--:"] * 3]]
    for r in results:
        share = f"{100 * r.correct / r.total:.2f} %"
        rows.append(
            [str(r.seed), r.arithmetic, f"{r.correct:,} of {r.total:,}", share, f"{r.minutes:.1f}"]
        )
    table = ["| " + " | ".join(row) + " |" for row in rows]
    headlines = [f"- {name}: {value}" for name, value in summarize(results).items()]
    title = "# Accuracy of training on integers, CIFAR-10"
    return "\n".join([title, "", about, "", *headlines, "", *table, "", report.facts(facts)]) + "\n"


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Train, print and write the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fit-epochs", type=int, default=5)
    parser.add_argument("--qat-epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "blocks_accuracy")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    if len(args.seeds) < 2:
        parser.error("--seeds needs at least two: one says nothing of the noise")
    epochs = (args.fit_epochs, args.qat_epochs)
    results = run_all(accuracy.images(), args.out, args.seeds, epochs)
    facts, summary = machine.describe(), summarize(results)
    text = markdown(results, epochs, facts)
    record = {"summary": summary, "results": [vars(r) for r in results], "machine": facts}
    report.publish(args.results, STEM, text, record, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
