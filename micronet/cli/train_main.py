"""The command ``micronet train``: fit, prune and qat; the others are in ``train_commands``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from micronet.cli import records, stage, train_arguments, train_commands
from micronet.cli.options import CommandOptions, TrainOptions
from micronet.compression.distillation import Teacher
from micronet.data.augmentation import policy
from micronet.data.datasets import Data, open_data
from micronet.data.preprocessing import Preprocessing
from micronet.models import architectures
from micronet.models.failures import failures_of
from micronet.pruning import prune
from micronet.quantization import conversion, quantize, weight_uses
from micronet.quantization.sync_batch_norm import synchronized
from micronet.runs import checkpoint, directory
from micronet.runs.directory import LoadedRun, RunDirectory
from micronet.runs.run_config import RunConfig
from micronet.training import checkpoint_saver, loop, network_trial
from micronet.training.optimizer import device, device_of, keep_freed_memory_mapped
from micronet.training.plan import TrainingPlan
from micronet.training.signals import Stopped, StopRequest
from micronet.training.state import State, pack, unpack
from micronet.training.tensorboard import Events, require_package
from micronet.training.trial import Trial
from micronet.utils import distributed
from micronet.utils.errors import UserError, reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code."""
    called = train_arguments.parse(argv)
    options = called.options
    keep_freed_memory_mapped()
    if called.threads:
        torch.set_num_threads(called.threads)
    try:
        with distributed.processes(), _quiet_unless_first():
            if isinstance(options, TrainOptions):
                return run_stage(options)
            return train_commands.COMMANDS[called.command](options)
    except distributed.LostProcess as error:
        print(f"error: {error}{_last_good(options)}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stopped) as stop:
        go_on = ""
        if isinstance(options, TrainOptions):
            go_on = f"; continue with --out {options.out} --resume"
        print(f"stopped{go_on}", file=sys.stderr)
        return 128 + (stop.signum if isinstance(stop, Stopped) else signal.SIGINT)


def _last_good(options: CommandOptions) -> str:
    last = RunDirectory(options.out).last if isinstance(options, TrainOptions) else Path()
    return f"; the last good checkpoint is {str(last)!r}" if last.is_file() else ""


@contextlib.contextmanager
def _quiet_unless_first() -> Iterator[None]:
    """Let only the first of several processes print to standard output."""
    if distributed.is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def run_stage(options: TrainOptions) -> int:
    """Fit, prune or quantize: build everything, then hand it to the loop."""
    run = RunDirectory(options.out)
    if options.tensorboard:
        require_package()
    # torchrun repeats the command as it was when it starts a run's processes again.
    resumes = options.resume or (distributed.was_restarted() and run.config_file.exists())
    config, origin, goes_on = _settings(options, run, resumes)
    stage.check_machine(config)
    train = stage.train_section(config)
    torch.manual_seed(train.seed)
    preprocessing = stage.preprocessing(config, origin)
    data = _open_data(config, options, preprocessing)
    config, model, masks = _starting_network(config, data, origin)
    if origin is not None:
        stage.check_data(origin.meta, str(origin.path), data)
    plan = stage.resolve(config, model, origin, goes_on=goes_on, moments=data.statistics)
    for note in (*config.recipe.notes, *data.notes):
        print(f"note: {note}")
    teacher = _teacher(plan, data)
    if distributed.is_several() and train.sync_batch_norm:
        model = synchronized(model)
    plan = _tried_out(config, model, plan, masks, data, teacher)
    config = replace(config, recipe=replace(config.recipe, train=plan.train))
    image = torch.zeros(1, data.channels, data.image_size, data.image_size, device=device_of(model))
    weight_uses.check_uses(model, plan.compression.rounded, lambda: model(image))
    state = loop.start(model, plan, masks)
    meta = records.header(config, model, data, plan, preprocessing)
    if resumes:
        stage.check_images(run.config(), data)
    else:
        with failures_of(f"{config.request.arch} cannot be kept in a checkpoint"):
            checkpoint.serialized(*pack(state, meta))
        _create(run, config, model, data)
    if origin is not None:
        state.compression.bits = quantize.bits_from_dict(origin.meta["bits"])
    if goes_on and origin is not None:
        unpack(state, origin.checkpoint)
        done = f"{state.progress.step} steps of epoch {state.epoch + 1}"
        print(f"continuing {str(origin.path)!r} after {done}", flush=True)
    else:
        _report_conversion(model, plan, run)
    return _trained(options, run, state, plan, data, meta, teacher)


def _trained(
    options: TrainOptions,
    run: RunDirectory,
    state: State,
    plan: TrainingPlan,
    data: Data,
    meta: Mapping[str, Any],
    teacher: Teacher | None,
) -> int:
    """Train to the end of the plan, and say how it went."""
    steps = state.epoch * data.steps_per_epoch + state.progress.step
    rules = options.checkpoint_every, options.keep, distributed.is_first()
    with StopRequest() as stop, _events(options, run, steps) as events:
        saver = checkpoint_saver.CheckpointSaver(run, meta, *rules, events)
        state = loop.train(state, plan, data, saver, teacher, stop)
    train_commands.report_skipped(data)
    return _report(state, run)


def _settings(
    options: TrainOptions, run: RunDirectory, resumes: bool
) -> tuple[RunConfig, LoadedRun | None, bool]:
    """Return a run's settings, what it starts from, and whether that is its own checkpoint."""
    if not resumes:
        source = options.request.source
        origin = directory.load(source) if source else None
        return stage.new_config(options, origin.meta if origin else {}), origin, False
    config = stage.resumed_config(options, run)
    own = checkpoint_saver.to_continue_from(run)
    if own is not None:
        return config, directory.rebuilt(own, averaged=False), True
    source = config.request.source
    return config, directory.load(source) if source else None, False


def _tried_out(
    config: RunConfig,
    model: nn.Module,
    plan: TrainingPlan,
    masks: prune.Masks,
    data: Data,
    teacher: Teacher | None,
) -> TrainingPlan:
    """Return the plan with the memory order that the network turns out to take.

    Raises:
        UserError: the network does not do what the plan and the data ask of it.
    """
    arch, path = str(config.request.arch), config.recipe.path
    trial = Trial.of_training(arch, data, plan, masks.bits, path)
    wanted = plan.train.channels_last
    taken = network_trial.check(model, trial, channels_last=wanted, teacher=teacher)
    return replace(plan, train=replace(plan.train, channels_last=taken))


def _create(run: RunDirectory, config: RunConfig, model: nn.Module, data: Data) -> None:
    recorded = {**config.to_dict(), **records.facts(model, data)}
    text = yaml.safe_dump(config.recipe_as_data(), sort_keys=False)
    distributed.first_alone(lambda: run.create(recorded, text))


@contextlib.contextmanager
def _events(options: TrainOptions, run: RunDirectory, done: int) -> Iterator[Events | None]:
    if not (options.tensorboard and distributed.is_first()):
        yield None
        return
    events = Events(run.path, done)
    try:
        yield events
    finally:
        events.close()


def _report_conversion(model: nn.Module, plan: TrainingPlan, run: RunDirectory) -> None:
    if plan.compression.bits:
        rows = conversion.report(model, plan.compression.bits)
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


def _open_data(
    config: RunConfig, options: TrainOptions, preprocessing: Preprocessing | None
) -> Data:
    """Return this process's share of the images, augmented as the recipe says."""
    train, request = stage.train_section(config), config.request
    data = open_data(
        str(request.data),
        image_size=request.image_size,
        batch_size=train.batch_size,
        seed=train.seed,
        holdout=request.holdout,
        workers=options.workers,
        skip_bad_images=options.skip_bad_images,
        preprocessing=preprocessing,
    )
    if config.recipe.augment is not None:
        data.parts["train"][0].policy = policy(config.recipe.augment, data.name)
    if train.decode == "device":
        data = data.decode_on_device()
    return data.shared(distributed.rank(), distributed.size()).on(device())


def _starting_network(
    config: RunConfig, data: Data, origin: LoadedRun | None
) -> tuple[RunConfig, nn.Module, prune.Masks]:
    """Return the settings with the network's name, the network, and its masks."""
    request = config.request
    if origin is not None:
        arch = origin.meta["arch"]
        if request.arch not in (None, arch):
            raise UserError(
                f"--arch {request.arch} differs from {str(origin.path)!r}, which is {arch}"
            )
        config = replace(config, request=replace(request, arch=arch))
        return config, origin.model, prune.Masks(origin.masks)
    if not request.arch:
        raise UserError(f"{config.stage} needs --arch, or --from RUN")
    if config.stage != "fit" and not (request.weights or request.pretrained):
        raise UserError(f"{config.stage} needs trained weights: --from, --weights, --pretrained")
    model = architectures.create_model(
        request.arch,
        data.num_classes,
        channels=data.channels,
        pretrained=bool(request.pretrained),
    )
    if request.weights:
        architectures.load_weights(model, request.weights)
    return config, model, prune.Masks()


def _teacher(plan: TrainingPlan, data: Data) -> Teacher | None:
    if plan.compression.distill is None or plan.compression.distill.teacher is None:
        return None
    name, weights = plan.compression.distill.teacher, plan.compression.distill.teacher_weights
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
