"""What a stage is to do: the command line, the recipe and the network, held to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from micronet.cli.options import TrainOptions
from micronet.compression import plan
from micronet.data.datasets import Data
from micronet.data.device_decoding import can_decode
from micronet.data.preprocessing import Preprocessing, Statistics, of_record
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.images.moments import check_moments
from micronet.recipe.checks import check_train
from micronet.recipe.reader import Recipe, load_recipe
from micronet.recipe.schema import DistillSection, TrainSection
from micronet.recipe.yaml_source import line_of
from micronet.runs.description import versions
from micronet.runs.directory import LoadedRun, RunDirectory
from micronet.runs.run_config import Request, RunConfig
from micronet.scoring.network import plan_files
from micronet.training.optimizer import device, require_compiler
from micronet.training.plan import TrainingPlan
from micronet.utils import distributed
from micronet.utils.errors import UserError

DEFAULT_DATA = "digits"
# What messages name where no file says what is wrong.
COMMAND_LINE = "command line"


def new_config(options: TrainOptions, earlier: Mapping[str, Any]) -> RunConfig:
    """Resolve the command line and the recipe's file into what the run records.

    Args:
        options: the command line.
        earlier: what the checkpoint that the run starts from says of itself; empty for none.

    Returns:
        The settings, whose recipe still knows the lines of its file.

    Raises:
        UserError: the recipe is wrong, or what is given does not go together.
    """
    stage, request = options.stage, options.request
    path = request.schedule
    recipe = load_recipe(path) if path else Recipe(path=COMMAND_LINE)
    if request.plan:
        recipe = plan_files.applied(request.plan, recipe)
    needed = {"prune": recipe.prune, "qat": recipe.quantize}
    if stage in needed and needed[stage] is None:
        section = {"prune": "prune", "qat": "quantize"}[stage]
        lacking = f"schedule {path!r} has" if path else "without --schedule there is"
        raise UserError(f"{stage} needs a {section!r} section: {lacking} none")
    train = replace(recipe.train or TrainSection(), **request.overrides.given())
    # The file's own numbers have been checked: what is wrong now, an option made wrong.
    check_train(train, COMMAND_LINE)
    # A stage takes its own sections, so that one file can hold the recipe of all three.
    if stage != "qat" and recipe.quantize is not None:
        train = replace(train, step_optimizer=None, step_lr=None)
    recipe = replace(
        recipe,
        train=train,
        prune=None if stage == "fit" else recipe.prune,
        quantize=recipe.quantize if stage == "qat" else None,
        distill=_distill_section(stage, recipe, request),
    )
    return RunConfig(stage, _with_data(request, earlier), recipe)


def train_section(config: RunConfig) -> TrainSection:
    """Return the ``train`` section, which every run's recipe has."""
    assert config.recipe.train is not None
    return config.recipe.train


def check_machine(config: RunConfig) -> None:
    """Hold a stage to what this machine can: compile it, capture it, decode images on a device.

    Raises:
        UserError: it cannot.
    """
    train = train_section(config)
    if train.decode == "device":
        _check_decoder(line_of(config.recipe.path, "train.decode"))
    if train.cuda_graph:
        _check_graph(train, line_of(config.recipe.path, "train.cuda_graph"))
    if not train.compile:
        return
    if config.recipe.distill is not None and config.recipe.distill.features:
        raise UserError(
            f"{line_of(config.recipe.path, 'distill.features')}: distill.features does not go with "
            "train.compile, in which modules are not watched"
        )
    if config.stage == "qat":
        raise UserError(
            f"{line_of(config.recipe.path, 'train.compile')}: qat cannot be compiled: its layers "
            "compute in kernels of their own, which torch.compile does not see into"
        )
    require_compiler()


def _check_decoder(where: str) -> None:
    if not torch.cuda.is_available():
        problem = "needs a CUDA device, and this machine has none"
    elif not can_decode(device()):
        version = versions()["torchvision"]
        problem = f"needs nvJPEG, which torchvision {version} does not reach here"
    else:
        return
    raise UserError(f"{where}: train.decode device {problem}")


def _check_graph(train: TrainSection, where: str) -> None:
    problem = None
    if not torch.cuda.is_available():
        problem = "needs a CUDA device, and this machine has none"
    elif distributed.is_several():
        problem = "captures the step of one process, but several train"
    elif train.compile:
        problem = "does not go with train.compile"
    if problem is not None:
        raise UserError(f"{where}: train.cuda_graph {problem}")


def _with_data(request: Request, earlier: Mapping[str, Any]) -> Request:
    """Add where images come from: as given, else as an earlier run had them."""
    data, holdout = request.data, request.holdout
    if data is None:
        data = images_of(earlier, request.source)
        holdout = holdout or earlier.get("holdout")
    image_size = request.image_size or earlier.get("image_size")
    return replace(request, data=data, holdout=holdout, image_size=image_size)


def preprocessing(config: RunConfig, origin: LoadedRun | None) -> Preprocessing | None:
    """Return how a stage's images are prepared: as those that its network was trained on.

    Raises:
        UserError: a checkpoint's record of it is damaged, or there is no such network.
    """
    if origin is not None:
        return of_record(origin.meta, origin.path)
    return architectures.preprocessing(config.request.arch)


def images_of(meta: Mapping[str, Any], name: str | None) -> str:
    """Return the images that a network was trained on; by default where there is no network.

    Args:
        meta: what its checkpoint says of it; empty for none.
        name: of the checkpoint, for messages.

    Raises:
        UserError: it does not say.
    """
    data = meta.get("data", DEFAULT_DATA)
    if data is None:
        raise UserError(f"{name!r} does not say what images it was trained on: give --data")
    return str(data)


def _distill_section(stage: str, recipe: Recipe, request: Request) -> DistillSection | None:
    """Return how a stage distils; the command line's teacher goes before the recipe's."""
    section = recipe.distill
    if request.teacher:
        section = section or DistillSection()
        return replace(section, teacher=request.teacher, teacher_weights=request.teacher_weights)
    if request.teacher_weights:
        raise UserError("--teacher-weights needs --teacher ARCH")
    if section is None or section.teacher:
        return section
    if stage != "qat":
        return None
    raise UserError(
        f"{line_of(recipe.path, 'distill')}: the schedule distils: give distill.teacher, "
        "--teacher ARCH or --teacher RUN"
    )


def resumed_config(options: TrainOptions, run: RunDirectory) -> RunConfig:
    """Return what the run recorded; options given again must agree with it.

    Raises:
        UserError: they do not, or the record is damaged.
    """
    config = RunConfig.of_run(run)
    if config.stage != options.stage:
        raise UserError(f"{str(run.path)!r} is a {config.stage} run, not {options.stage}")
    recorded = config.request.by_option()
    for key, value in options.request.by_option().items():
        if value is not None and value != recorded[key]:
            flag = "--" + key.replace("_", "-")
            raise UserError(f"{flag} {value} differs from the run's own, {recorded[key]}")
    return config


def resolve(
    config: RunConfig,
    model: nn.Module,
    origin: LoadedRun | None,
    *,
    goes_on: bool = False,
    moments: Statistics | None = None,
) -> TrainingPlan:
    """Hold a recipe's names and epochs to the network.

    Args:
        config: of the run.
        model: the network.
        origin: what the run starts from.
        goes_on: whether that is its own checkpoint.
        moments: mean and standard deviation by which images are normalized.

    Raises:
        UserError: a name is no layer, or training ends before the recipe reaches its target.
    """
    recipe = config.recipe
    earlier = quantize.bits_from_dict(origin.meta["bits"]) if origin else {}
    compression = plan.resolve(model, recipe, earlier, goes_on=goes_on, moments=moments)
    return TrainingPlan(config.stage, train_section(config), compression, recipe.augment)


def image_counts(data: Data) -> dict[str, int]:
    """Return the number of images of each part, as a run records it."""
    sizes = data.train_size, data.validation_size, data.test_size
    return dict(zip(("train", "validation", "test"), sizes, strict=True))


def check_images(record: Mapping[str, Any], data: Data) -> None:
    """Hold the data to the images that a run began with, whose order would be another now.

    Raises:
        UserError: there are more or fewer of them.
    """
    recorded = record.get("images")
    for part, count in image_counts(data).items():
        began = recorded.get(part, count) if isinstance(recorded, dict) else count
        if count != began:
            raise UserError(
                f"data {data.name!r} has {count} {part} images now, but the run began with {began}"
            )


def check_data(meta: Mapping[str, Any], name: str, data: Data) -> None:
    """Hold the data to what a checkpoint's header says of its network.

    Raises:
        UserError: it has other classes or channels, or its images are normalized otherwise than a
            layer takes for granted that reads their grey values.
    """
    for key, have in (("num_classes", data.num_classes), ("channels", data.channels)):
        if meta[key] != have:
            raise UserError(f"data {data.name!r} has {key} {have}, {name!r} has {meta[key]}")
    bits = quantize.bits_from_dict(meta["bits"])
    check_moments(bits, data.statistics, f"data {data.name!r} of {name!r}")
