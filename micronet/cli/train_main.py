"""The command ``micronet train``: fit, prune and qat; the others are in ``train_commands``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from torch import nn

from micronet.cli import stage, train_arguments, train_commands
from micronet.data.augmentation import policy
from micronet.data.datasets import Data, open_data
from micronet.models import architectures
from micronet.models.failures import failures_of
from micronet.pruning import prune
from micronet.quantization import conversion, quantize, weight_uses
from micronet.quantization.sync_batch_norm import synchronized
from micronet.recipe.reader import Schedule
from micronet.recipe.yaml_source import line_of
from micronet.runs import checkpoint, directory
from micronet.runs.directory import LoadedRun, RunDirectory
from micronet.training import checkpoint_saver, loop, network_trial
from micronet.training.distillation import Teacher
from micronet.training.network_trial import Trial
from micronet.training.optimizer import keep_freed_memory_mapped
from micronet.training.plan import TrainingPlan
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import State, pack, unpack
from micronet.training.tensorboard import Events, require_package
from micronet.utils import distributed
from micronet.utils.errors import UserError, reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code."""
    args = train_arguments.parse(argv)
    keep_freed_memory_mapped()
    if args.get("threads"):
        torch.set_num_threads(args["threads"])
    trains = args["command"] not in train_commands.COMMANDS
    act = run_stage if trains else train_commands.COMMANDS[args["command"]]
    try:
        with distributed.processes(), _quiet_unless_first():
            return act(args)
    except distributed.LostProcess as error:
        last = RunDirectory(Path(args["out"])).last if trains else Path()
        go_on = f"; the last good checkpoint is {str(last)!r}" if last.is_file() else ""
        print(f"error: {error}{go_on}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stopped) as stop:
        go_on = f"; continue with --out {args['out']} --resume" if trains else ""
        print(f"stopped{go_on}", file=sys.stderr)
        return 128 + (stop.signum if isinstance(stop, Stopped) else signal.SIGINT)


@contextlib.contextmanager
def _quiet_unless_first() -> Iterator[None]:
    """Let only the first of several processes print to standard output."""
    if distributed.is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def run_stage(args: dict[str, Any]) -> int:
    """Fit, prune or quantize: build everything, then hand it to the loop."""
    run = RunDirectory(Path(args["out"]))
    config, schedule = _configured(args, run)
    train = stage.require_train(schedule)
    stage.check_compile(config["stage"], schedule)
    torch.manual_seed(train.seed)
    found = checkpoint_saver.to_continue_from(run) if args["resume"] else None
    data = _open_data(config, schedule, args)
    model, masks, origin = _starting_network(config, data, found)
    if origin is not None:
        stage.check_data(origin.meta, str(origin.path), data)
    recipe = stage.recipe(config["stage"], schedule, model, origin)
    for note in (*schedule.notes, *data.notes):
        print(f"note: {note}")
    teacher = _teacher(recipe, data)
    if distributed.is_several() and train.sync_batch_norm:
        model = synchronized(model)
    recipe = _tried_out(config, schedule, model, recipe, masks, data, teacher)
    rounded = [name for name, bits in recipe.bits.items() if bits.weight_bits is not None]
    weight_uses.check_uses(model, rounded, data.channels, data.image_size)
    state, meta = loop.start(model, recipe, masks), _meta(config, data, recipe)
    if args["resume"]:
        stage.check_images(config, data)
    else:
        with failures_of(f"{config['arch']} cannot be kept in a checkpoint"):
            checkpoint.serialized(*pack(state, meta))
        _create(run, config, model, data)
    if found is None:
        _report_conversion(model, recipe, run)
    if origin is not None:
        state.bits = quantize.bits_from_dict(origin.meta["bits"])
    if found is not None and origin is not None:
        unpack(state, origin.checkpoint)
        done = f"{state.progress.step} steps of epoch {state.epoch + 1}"
        print(f"continuing {str(found)!r} after {done}", flush=True)
    steps = state.epoch * data.steps_per_epoch + state.progress.step
    rules = args["checkpoint_every"], args["keep"], distributed.is_first()
    with StopRequest() as stop, _events(args, run, steps) as events:
        saver = checkpoint_saver.CheckpointSaver(run, meta, *rules, events)
        state = loop.train(state, recipe, data, saver, teacher, stop)
    train_commands.report_skipped(data)
    return _report(state, run)


def _configured(args: dict[str, Any], run: RunDirectory) -> tuple[dict[str, Any], Schedule]:
    """Return what the run is to do, by its command line or by its own record."""
    if args["tensorboard"]:
        require_package()
    # torchrun repeats the command as it was when it starts a run's processes again.
    args["resume"] = args["resume"] or (distributed.was_restarted() and run.config_file.exists())
    return stage.resumed_config(args, run) if args["resume"] else stage.new_config(args)


def _tried_out(
    config: dict[str, Any],
    schedule: Schedule,
    model: nn.Module,
    recipe: TrainingPlan,
    masks: prune.Masks,
    data: Data,
    teacher: Teacher | None,
) -> TrainingPlan:
    """Return the recipe, and record it, with the memory order that the network turns out to take.

    Raises:
        UserError: the network does not do what the recipe and the data ask of it.
    """
    trial = Trial.of_training(
        config["arch"], data, recipe, masks.bits, line_of(schedule.path, "quantize")
    )
    wanted = recipe.train.channels_last
    taken = network_trial.check(model, trial, channels_last=wanted, teacher=teacher)
    config["recipe"]["train"]["channels_last"] = taken
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, channels_last=taken))


def _create(run: RunDirectory, config: dict[str, Any], model: nn.Module, data: Data) -> None:
    recorded = {**config, **_facts(model, data)}
    text = yaml.safe_dump(config["recipe"], sort_keys=False)
    distributed.first_alone(lambda: run.create(recorded, text))


@contextlib.contextmanager
def _events(args: dict[str, Any], run: RunDirectory, done: int) -> Iterator[Events | None]:
    if not (args["tensorboard"] and distributed.is_first()):
        yield None
        return
    events = Events(run.path, done)
    try:
        yield events
    finally:
        events.close()


def _report_conversion(model: nn.Module, recipe: TrainingPlan, run: RunDirectory) -> None:
    if recipe.bits:
        rows = conversion.report(model, recipe.bits)
        if distributed.is_first():
            run.describe_layers(conversion.as_csv(rows))
        print(f"{conversion.as_text(rows)}\n  layer by layer: {run.layers_file}", flush=True)


def _report(state: State, run: RunDirectory) -> int:
    if uninitialized := quantize.uninitialized(state.model):
        name = uninitialized[0]
        raise UserError(f"layer {name!r} never saw an activation: its range or step is unknown")
    print(
        f"best validation top-1 {state.best_top1:.2f} in epoch {state.best_epoch + 1}: {run.best}"
    )
    return 0


def _open_data(config: dict[str, Any], schedule: Schedule, args: dict[str, Any]) -> Data:
    """Return this process's share of the images, augmented as the schedule says."""
    train = stage.require_train(schedule)
    data = open_data(
        config["data"],
        image_size=config["image_size"],
        batch_size=train.batch_size,
        seed=train.seed,
        holdout=config["holdout"],
        workers=args["workers"],
        skip_bad_images=args["skip_bad_images"],
    )
    if schedule.augment is not None:
        data.parts["train"][0].policy = policy(schedule.augment, data.name)
    return data.shared(distributed.rank(), distributed.size())


def _starting_network(
    config: dict[str, Any], data: Data, last: Path | None
) -> tuple[nn.Module, prune.Masks, LoadedRun | None]:
    """Return the network, its masks, and the checkpoint that both came from, if any."""
    source = last or config["from"]
    if source:
        loaded = directory.load(source, averaged=source is not last)
        arch = loaded.meta["arch"]
        if config["arch"] not in (None, arch):
            raise UserError(
                f"--arch {config['arch']} differs from {str(source)!r}, which is {arch}"
            )
        masks = prune.Masks(loaded.masks)
        masks.check(loaded.model)
        config["arch"] = arch
        return loaded.model, masks, loaded
    if not config["arch"]:
        raise UserError(f"{config['stage']} needs --arch, or --from RUN")
    if config["stage"] != "fit" and not (config["weights"] or config["pretrained"]):
        raise UserError(f"{config['stage']} needs trained weights: --from, --weights, --pretrained")
    model = architectures.create_model(
        config["arch"],
        data.num_classes,
        channels=data.channels,
        pretrained=bool(config["pretrained"]),
    )
    if config["weights"]:
        architectures.load_weights(model, config["weights"])
    return model, prune.Masks(), None


def _teacher(recipe: TrainingPlan, data: Data) -> Teacher | None:
    if recipe.distill is None or recipe.distill.teacher is None:
        return None
    name, weights = recipe.distill.teacher, recipe.distill.teacher_weights
    if Path(name).exists():
        loaded = directory.load(name)
        stage.check_data(loaded.meta, str(loaded.path), data)
        model = loaded.model
    else:
        model = architectures.create_model(name, data.num_classes, channels=data.channels)
        if not weights:
            raise UserError(f"--teacher {name} needs --teacher-weights FILE")
        architectures.load_weights(model, weights)
    return Teacher(model)


def _facts(model: nn.Module, data: Data) -> dict[str, Any]:
    """Return what the run's configuration records for its reader."""
    return {
        "num_classes": data.num_classes,
        "channels": data.channels,
        "resolved_image_size": data.image_size,
        "images": stage.image_counts(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }


def _meta(config: dict[str, Any], data: Data, recipe: TrainingPlan) -> dict[str, Any]:
    """Return what every checkpoint of the run says of itself."""
    return {
        "arch": config["arch"],
        "num_classes": data.num_classes,
        "channels": data.channels,
        "image_size": data.image_size,
        "stage": config["stage"],
        "data": config["data"],
        "holdout": config["holdout"],
        "classes": list(data.classes),
        "channels_last": recipe.train.channels_last,
    }
