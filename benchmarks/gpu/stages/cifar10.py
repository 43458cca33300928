"""Stage f: the recipes fit, prune and qat by the public commands, on the device."""

import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.pipeline import accuracy
from benchmarks.pipeline.accuracy import STAGES, recipe_of
from micronet.cli import pipeline
from micronet.runs.directory import RunDirectory

TABLE = "CIFAR-10"
# Of the stage's time: the rest is for what an epoch's time does not show, such as test images.
SHARE = 0.75


def measure(settings: Settings, record: Record) -> None:
    """Train the three stages, their epochs cut down to what the time allows."""
    began, given = time.monotonic(), settings.left()
    scratch = Path(settings.scratch)
    recipes = {stage: yaml.safe_load(recipe_of(stage).read_text()) for stage in STAGES}
    source = source_of(settings, scratch)
    share = 0.0
    if not settings.quick:
        probe = accuracy.run_stage("fit", part(recipes["fit"], 0, scratch), scratch / "try", source)
        (first,) = RunDirectory(probe).metrics()
        left = SHARE * given - (time.monotonic() - began)
        share = affordable(recipes, first["seconds"], left)
    if share < 1:
        record.note(f"Epochs cut down to {share:.0%} of the recipes', at least one of each.")
    for stage in STAGES:
        recipe = part(recipes[stage], share, scratch)
        record.row(TABLE, row_of(accuracy.run_stage(stage, recipe, scratch / "runs", source)))
    if settings.cifar10:
        record.figure("cifar10_qat_top1", record.found.tables[TABLE][-1]["top-1 %"])
    else:
        record.missing("cifar10_qat_top1", "no CIFAR-10 images were given: handwritten digits")


def source_of(settings: Settings, scratch: Path) -> list[str]:
    """Return the options on data; a tar of images is unpacked first."""
    if not settings.cifar10:
        return ["--data", "digits", *(["--image-size", "8"] if settings.quick else [])]
    folder = Path(settings.cifar10)
    if not folder.is_dir():
        with tarfile.open(folder) as archive:
            archive.extractall(scratch / "data", filter="data")
        # The folder with train/ and val/, wherever the archive has it.
        folder = next((scratch / "data").rglob("train")).parent
    return ["--data", str(folder), "--holdout", "0.1"]


def affordable(recipes: dict[str, dict[str, Any]], epoch: float, seconds: float) -> float:
    """Return the share of all epochs that takes `seconds`, at most 1, if each takes `epoch`."""
    epochs = sum(recipe["train"]["epochs"] for recipe in recipes.values())
    return max(0.0, min(1.0, seconds / (epoch * epochs)))


def part(recipe: dict[str, Any], share: float, scratch: Path) -> Path:
    """Write a recipe with a share of its epochs, at least one; return the file."""

    def cut(section: str, key: str) -> dict[str, Any]:
        values = recipe[section]
        return {section: {**values, key: max(1, int(share * values[key]))}}

    shorter = {**recipe, **cut("train", "epochs")}
    if "prune" in recipe:
        shorter |= cut("prune", "end_epoch")
    path = scratch / "recipe.yaml"
    path.write_text(yaml.safe_dump(shorter))
    return path


def row_of(run: Path) -> dict[str, object]:
    """Return what a stage's run came to, on the test images."""
    result, records = pipeline.result_of(run), RunDirectory(run).metrics()
    return {
        "stage": result.stage,
        "epochs": result.epochs,
        "images/s": max(record["images_per_second"] for record in records),
        "seconds an epoch": min(record["seconds"] for record in records),
        "top-1 %": round(result.accuracy.top1, 2),
        "of images": result.accuracy.total,
        "sparsity": result.sparsity,
        "bits": result.bits,
    }
