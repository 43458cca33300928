"""What a stage is to do: the command line, the schedule and the network, held to each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from micronet.cli import train_arguments
from micronet.data.datasets import Data
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.recipe.reader import (
    DistillSection,
    Schedule,
    TrainSection,
    check_train,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from micronet.recipe.yaml_source import line_of
from micronet.runs import checkpoint, directory
from micronet.runs.directory import LoadedRun, RunDirectory
from micronet.scoring.network import plan_files
from micronet.training.optimizer import require_compiler
from micronet.training.plan import TrainingPlan
from micronet.utils.errors import UserError

DEFAULT_DATA = "digits"
# What messages name where no file says what is wrong.
COMMAND_LINE = "command line"


def new_config(args: dict[str, Any]) -> tuple[dict[str, Any], Schedule]:
    """Resolve the command line and the schedule's file into what the run records.

    Returns:
        The record, and its recipe as a schedule that still knows the lines of its file.

    Raises:
        UserError: the schedule is wrong, or what is given does not go together.
    """
    stage = args["command"]
    config = {key: args[key] for key in train_arguments.RECORDED}
    config["stage"] = stage
    config.update(_data_options(args))
    path = args["schedule"]
    schedule = load_recipe(path) if path else Schedule(path=COMMAND_LINE)
    if args["plan"]:
        schedule = plan_files.applied(args["plan"], schedule)
    needed = {"prune": schedule.prune, "qat": schedule.quantize}
    if stage in needed and needed[stage] is None:
        section = {"prune": "prune", "qat": "quantize"}[stage]
        lacking = f"schedule {path!r} has" if path else "without --schedule there is"
        raise UserError(f"{stage} needs a {section!r} section: {lacking} none")
    given = {key: args[key] for key in train_arguments.OF_TRAIN}
    given = {key: value for key, value in given.items() if value is not None}
    train = dataclasses.replace(schedule.train or TrainSection(), **given)
    # The file's own numbers have been checked: what is wrong now, an option made wrong.
    check_train(train, COMMAND_LINE)
    # A stage takes its own sections, so that one file can hold the recipe of all three.
    schedule = dataclasses.replace(
        schedule,
        train=train,
        prune=None if stage == "fit" else schedule.prune,
        quantize=schedule.quantize if stage == "qat" else None,
        distill=_distill_section(schedule, args),
    )
    config["recipe"] = recipe_to_dict(schedule)
    return config, schedule


def check_compile(stage: str, schedule: Schedule) -> None:
    """Hold a stage that is to be compiled to what torch.compile can do, here.

    Raises:
        UserError: the stage trains quantized, or this machine has no compiler.
    """
    if not require_train(schedule).compile:
        return
    if stage == "qat":
        raise UserError(
            f"{line_of(schedule.path, 'train.compile')}: qat cannot be compiled: its layers "
            "compute in kernels of their own, which torch.compile does not see into"
        )
    require_compiler()


def _data_options(args: dict[str, Any]) -> dict[str, Any]:
    """Return where images come from: as given, else as the run in --from had them."""
    earlier = {}
    if args["from"]:
        earlier = checkpoint.load(directory.find_checkpoint(args["from"])).meta
    given = {key: args[key] for key in ("data", "holdout", "image_size")}
    if given["data"] is None:
        given["data"] = earlier.get("data", DEFAULT_DATA)
        given["holdout"] = given["holdout"] or earlier.get("holdout")
    given["image_size"] = given["image_size"] or earlier.get("image_size")
    return given


def _distill_section(schedule: Schedule, args: dict[str, Any]) -> DistillSection | None:
    """Return how a stage distils; the command line's teacher goes before the schedule's."""
    section = schedule.distill
    if args["teacher"]:
        named = {key: args[key] for key in ("teacher", "teacher_weights")}
        return dataclasses.replace(section or DistillSection(), **named)
    if args["teacher_weights"]:
        raise UserError("--teacher-weights needs --teacher ARCH")
    if section is None or section.teacher:
        return section
    if args["command"] != "qat":
        return None
    raise UserError(
        f"{line_of(schedule.path, 'distill')}: the schedule distils: give distill.teacher, "
        "--teacher ARCH or --teacher RUN"
    )


def resumed_config(args: dict[str, Any], run: RunDirectory) -> tuple[dict[str, Any], Schedule]:
    """Return what the run recorded, and its recipe; options given again must agree with it.

    Raises:
        UserError: they do not, or the record is damaged.
    """
    config = run.config()
    if config.get("stage") != args["command"]:
        raise UserError(f"{str(run.path)!r} is a {config.get('stage')} run, not {args['command']}")
    for key in train_arguments.RECORDED:
        if args[key] is not None and args[key] != config.get(key):
            flag = "--" + key.replace("_", "-")
            raise UserError(f"{flag} {args[key]} differs from the run's own, {config.get(key)}")
    return config, recipe_from_dict(config["recipe"], str(run.config_file))


def require_train(schedule: Schedule) -> TrainSection:
    """Return the train section that every recorded recipe has."""
    if schedule.train is None:
        raise UserError(f"{schedule.path}: the run's configuration has no train section")
    return schedule.train


def recipe(
    stage: str, schedule: Schedule, model: nn.Module, origin: LoadedRun | None
) -> TrainingPlan:
    """Hold a schedule's names and epochs to the network.

    Raises:
        UserError: a name is no layer, or training ends before the schedule reaches its target.
    """
    result = TrainingPlan(
        stage, require_train(schedule), distill=schedule.distill, augment=schedule.augment
    )
    if schedule.prune is not None:
        result = _with_pruning(result, schedule, model)
    if schedule.quantize is not None:
        result = _with_quantization(result, schedule, model, origin)
    return result


def _with_pruning(result: TrainingPlan, schedule: Schedule, model: nn.Module) -> TrainingPlan:
    section, path = schedule.prune, schedule.path
    assert section is not None
    groups = prune.layer_groups(model, section, path)
    last = prune.last_firing_epoch(section)
    if last >= result.train.epochs:
        key = "prune.end_epoch" if section.method == "gradual" else "prune.start_epoch"
        raise UserError(
            f"{line_of(path, key)}: {key} reaches its sparsity in epoch {last + 1}, "
            f"but training ends after epoch {result.train.epochs}"
        )
    return dataclasses.replace(result, prune=section, prune_groups=groups)


def _with_quantization(
    result: TrainingPlan, schedule: Schedule, model: nn.Module, origin: LoadedRun | None
) -> TrainingPlan:
    section, path = schedule.quantize, schedule.path
    assert section is not None
    bits = quantize.plan(model, section, path)
    if section.start_epoch >= result.train.epochs:
        raise UserError(
            f"{line_of(path, 'quantize.start_epoch')}: quantize.start_epoch {section.start_epoch} "
            f"is not before the end of training, {result.train.epochs} epochs"
        )
    earlier = quantize.bits_from_dict(origin.meta["bits"]) if origin else {}
    if earlier and earlier != bits:
        raise UserError(
            f"{line_of(path, 'quantize')}: the network is already quantized at other bits or steps"
        )
    return dataclasses.replace(result, bits=bits, quantize_from=section.start_epoch)


def image_counts(data: Data) -> dict[str, int]:
    """Return the number of images of each part, as a run records it."""
    sizes = data.train_size, data.validation_size, data.test_size
    return dict(zip(("train", "validation", "test"), sizes, strict=True))


def check_images(config: Mapping[str, Any], data: Data) -> None:
    """Hold the data to the images that a run began with, whose order would be another now.

    Raises:
        UserError: there are more or fewer of them.
    """
    recorded = config.get("images")
    for part, count in image_counts(data).items():
        began = recorded.get(part, count) if isinstance(recorded, dict) else count
        if count != began:
            raise UserError(
                f"data {data.name!r} has {count} {part} images now, but the run began with {began}"
            )


def check_data(meta: Mapping[str, Any], name: str, data: Data) -> None:
    """Hold the data to what a checkpoint's header says of its network.

    Raises:
        UserError: it has other classes or channels.
    """
    for key, have in (("num_classes", data.num_classes), ("channels", data.channels)):
        if meta[key] != have:
            raise UserError(f"data {data.name!r} has {key} {have}, {name!r} has {meta[key]}")
