"""What ``python -m micronet.train`` does besides training: eval, schedule, summary, sensitivity."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from micronet.cli import dry_run, stage, summary
from micronet.cli.options import EvalOptions, ScheduleOptions, SensitivityOptions, SummaryOptions
from micronet.cli.stage import check_data
from micronet.data.datasets import Data, open_data
from micronet.data.preprocessing import of_record
from micronet.models import architectures
from micronet.models.failures import failures_of
from micronet.models.meta_device import meta_device
from micronet.runs import directory
from micronet.training import network_trial, sensitivity
from micronet.training.evaluation import evaluate
from micronet.training.optimizer import device
from micronet.training.trial import Trial
from micronet.utils import distributed
from micronet.utils.errors import UserError


def run_eval(options: EvalOptions) -> int:
    """Print the accuracy of a run, a checkpoint, or an architecture with weights."""
    model, meta, name = _network_to_evaluate(options)
    data = open_data(
        options.data or stage.images_of(meta, name),
        image_size=options.image_size or meta.get("image_size"),
        batch_size=options.batch_size or 128,
        seed=0,
        holdout=options.holdout or meta.get("holdout"),
        workers=options.workers,
        trained=False,
        skip_bad_images=options.skip_bad_images,
        preprocessing=of_record(meta, name)
        if options.run
        else architectures.preprocessing(options.arch),
    )
    data = data.as_seen_by(distributed.rank(), distributed.size()).on(device())
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    if model is None:
        model = architectures.create_model(
            str(options.arch), data.num_classes, channels=data.channels
        )
        architectures.load_weights(model, name)
    else:
        check_data(meta, name, data)
    split = options.split or ("test" if data.test_size else "validation")
    if not {"test": data.test_size, "validation": data.validation_size}[split]:
        raise UserError(f"data {data.name!r} has no {split} images")
    batches = data.test() if split == "test" else data.validation()
    judge = _judge(model, options.arch or meta["arch"], data, split, meta)
    _print_accuracy(options, name, split, judge(model, batches))
    report_skipped(data)
    return 0


def _judge(
    model: nn.Module, arch: str, data: Data, split: str, meta: Mapping[str, Any]
) -> sensitivity.Judge:
    """Move a network to its device; return ``evaluate`` for the order of images that it takes.

    Raises:
        UserError: it does not take them, or returns no logits of their classes.
    """
    images = {"test": data.test_size, "validation": data.validation_size}[split]
    trial = Trial.of_evaluation(arch, data, images)
    wanted = meta.get("channels_last", True)
    order = network_trial.check(model, trial, channels_last=wanted)
    return functools.partial(evaluate, channels_last=order, name=arch)


def report_skipped(data: Data) -> None:
    """Say how many damaged images were left out, on standard error: JSON stays JSON."""
    if skipped := data.skipped():
        count = f"{len(skipped)} damaged image{'s' if len(skipped) > 1 else ''}"
        print(f"{count} left out, the first: {skipped[0]}", file=sys.stderr)


def _network_to_evaluate(options: EvalOptions) -> tuple[nn.Module | None, dict[str, Any], str]:
    if options.run:
        if options.weights or options.arch:
            raise UserError("eval takes a run, or --arch with --weights, not both")
        loaded = directory.load(options.run)
        return loaded.model, loaded.meta, str(loaded.path)
    if not (options.arch and options.weights):
        raise UserError("eval needs a run directory, a checkpoint, or --arch with --weights")
    return None, {}, options.weights


def _print_accuracy(options: EvalOptions, name: str, split: str, accuracy: Any) -> None:
    if options.json:
        record = dataclasses.asdict(accuracy)
        print(json.dumps({"network": name, "split": split, **record, "top1": accuracy.top1}))
        return
    print(f"{name}: {split} set, {accuracy.correct:,} of {accuracy.total:,} correct")
    print(
        f"top-1 {accuracy.top1:.3f} %, top-5 {accuracy.top5:.3f} %, loss {accuracy.loss:.4f}, "
        f"{accuracy.ties} tied maxima (counted for the lowest class index)"
    )


def run_schedule(options: ScheduleOptions) -> int:
    """Print what a schedule would do."""
    print(dry_run.preview(options.file, options.arch, options.num_classes, options.plan))
    return 0


def run_summary(options: SummaryOptions) -> int:
    """Print the layers of a run, a checkpoint or an architecture."""
    if bool(options.run) == bool(options.arch):
        raise UserError("summary takes a run or --arch, one of them")
    if options.run:
        loaded = directory.load(options.run)
        model, arch, classes = loaded.model, loaded.meta["arch"], loaded.meta["num_classes"]
        size = options.image_size or loaded.meta["image_size"]
        if size is None:
            raise UserError(f"{options.run!r} does not say its image size: give --image-size")
    else:
        arch, classes = str(options.arch), options.num_classes
        model = architectures.create_model(arch, classes)
        size = options.image_size or architectures.default_image_size(arch)
    with meta_device():
        structure = architectures.create_model(arch, classes)
    with failures_of(f"{arch} does not take an image of 3x{size}x{size}"):
        described = summary.layer_table(model, structure, size, arch)
    print(f"{options.run or arch} at {size}x{size}\n\n{described}")
    return 0


def run_sensitivity(options: SensitivityOptions) -> int:
    """Scan a run's layers and write what was found."""
    levels = sensitivity.sparsities_of(options.sparsities)
    loaded = directory.load(options.run)
    data = open_data(
        options.data or stage.images_of(loaded.meta, str(loaded.path)),
        image_size=loaded.meta["image_size"],
        batch_size=options.batch_size,
        seed=0,
        holdout=loaded.meta["holdout"],
        workers=options.workers,
        trained=False,
        preprocessing=of_record(loaded.meta, loaded.path),
    )
    data = data.as_seen_by(distributed.rank(), distributed.size()).on(device())
    if options.batches and distributed.is_several():
        raise UserError("--batches goes with one process: several have other batches")
    check_data(loaded.meta, str(loaded.path), data)
    batches = lambda: itertools.islice(data.validation(), options.batches)  # noqa: E731
    judge = _judge(loaded.model, loaded.meta["arch"], data, "validation", loaded.meta)
    out, asked = options.out, (options.layers, options.kind, levels)
    found = sensitivity.scan(loaded.model, batches, *asked, judge)
    distributed.first_alone(lambda: sensitivity.write(out, *found))
    print(f"written: {out / 'sensitivity.csv'}, search.csv, sensitivity.svg")
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "eval": run_eval,
    "schedule": run_schedule,
    "summary": run_summary,
    "sensitivity": run_sensitivity,
}
