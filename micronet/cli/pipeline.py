"""Several stages in a row, and one table of what became of the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from micronet.cli import train_main
from micronet.data.datasets import open_data
from micronet.data.preprocessing import of_record
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.runs import directory
from micronet.scoring.count import DEFAULT_RULES, Score, score_subject
from micronet.scoring.network.scored_network import from_run
from micronet.training.evaluation import Accuracy, evaluate
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class StageResult:
    """What a finished stage's best checkpoint is worth, on the test set."""

    stage: str
    accuracy: Accuracy
    sparsity: float
    bits: str
    score: Score
    epochs: int
    minutes: float


def run_stage(arguments: Sequence[str | Path]) -> None:
    """Run one ``python -m micronet.train`` command in this process.

    Raises:
        UserError: it failed; its own message has been printed.
    """
    command = [str(argument) for argument in arguments]
    print("$ python -m micronet.train " + " ".join(command), flush=True)
    if train_main.main(command) != 0:
        raise UserError(f"stage {command[0]!r} did not finish")


def result_of(path: Path) -> StageResult:
    """Evaluate a run's best checkpoint on its data's test set, and score it by the default rules.

    Raises:
        UserError: the run has no checkpoint, or its data has no test set.
    """
    loaded = directory.load(path)
    meta = loaded.meta
    data = open_data(
        meta["data"],
        image_size=meta["image_size"],
        batch_size=250,
        seed=0,
        holdout=meta["holdout"],
        trained=False,
        preprocessing=of_record(meta, loaded.path),
    )
    if not data.test_size:
        raise UserError(f"data {data.name!r} has no test images")
    records = directory.RunDirectory(path).metrics()
    return StageResult(
        stage=meta["stage"],
        accuracy=evaluate(loaded.model, data.test(), channels_last=loaded.channels_last),
        sparsity=prune.shown_sparsity(loaded.model, loaded.masks),
        bits=bits_text(quantize.bits_from_dict(meta["bits"]).values()),
        score=score_subject(from_run(str(path), DEFAULT_RULES)),
        epochs=len(records),
        minutes=sum(record["seconds"] for record in records) / 60,
    )


def bits_text(bits: Iterable[LayerBits]) -> str:
    """Return the commonest precision as weights/activations, such as ``4/4``."""
    pairs = [(layer.weight_bits, layer.activation_bits) for layer in bits if not layer.is_float]
    if not pairs:
        return "float"
    weights, activations = max(pairs, key=pairs.count)
    return "/".join("float" if b is None else f"{b:g}" for b in (weights, activations))


def table(results: Sequence[StageResult]) -> str:
    """Return the table that a pipeline ends with, as Markdown."""
    head = ["stage", "top-1", "correct", "sparsity", "bits W/A", "storage", "ops", "score"]
    rows = [head, ["---"] + ["---:"] * 7]
    for r in results:
        rows.append(
            [
                r.stage,
                f"{r.accuracy.top1:.2f} %",
                f"{r.accuracy.correct:,} of {r.accuracy.total:,}",
                f"{100 * r.sparsity:.1f} %",
                r.bits,
                f"{float(r.score.storage):,.0f}",
                f"{float(r.score.operations):,.0f}",
                f"{float(r.score.score):.6f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows if row is not rows[1]) for i in range(len(head))]
    rows[1] = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    cells = (
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in rows
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
