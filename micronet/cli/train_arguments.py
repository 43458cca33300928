"""The command line of ``python -m micronet.train``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from micronet.cli.options import (
    CommandOptions,
    EvalOptions,
    ScheduleOptions,
    SensitivityOptions,
    SummaryOptions,
    TrainOptions,
)
from micronet.models import custom
from micronet.runs.run_config import Request
from micronet.training.checkpoint_saver import Every, parse_every
from micronet.utils.errors import UserError

STAGES = {
    "fit": "train a dense float network",
    "prune": "prune a trained network gradually",
    "qat": "train a network with quantized weights and activations",
}
_ARCH = (
    "efficientnet-b0..b7, efficientnet-micro, resnet20/32/56, mobilenetv2_cifar, torchvision's, "
    "timm:NAME, or module:function of your own"
)


class Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(message)


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="python -m micronet.train",
        description="Train an image network, prune it, train it quantized, and evaluate it.",
    )
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    others = {
        "schedule": (
            "print what a schedule would do, layer by layer and epoch by epoch",
            _schedule_options,
        ),
        "summary": ("list a network's layers, their work, zeros and bits", _network_options),
        "sensitivity": (
            "measure what pruning each layer alone does to accuracy",
            _sensitivity_options,
        ),
        "eval": ("report a network's top-1 in whole images", _eval_options),
    }
    every = {name: (text, _stage_options) for name, text in STAGES.items()} | others
    for name, (text, add_options) in every.items():
        sentence = f"{text[0].upper()}{text[1:]}."
        add_options(commands.add_parser(name, help=text, description=sentence))
    return top


def add_own(command: argparse.ArgumentParser) -> None:
    """Let a command take runs and plans of networks that are a user's own."""
    text = "let files name this network of your own, whose code is run; may be repeated"
    command.add_argument("--own", action="append", metavar="MODULE:FUNCTION", help=text)


def allow_own(args: Mapping[str, Any]) -> None:
    """Allow the networks of a user's own that a command line names."""
    teacher = args.get("teacher")
    custom.allow(args.get("arch"), teacher, *(args.get("own") or ()))


def _source_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--arch", help=_ARCH)
    add_own(command)
    add("--data", help="digits (default), cifar10, cifar100, or a folder with train/ and val/")
    add("--image-size", type=positive, help="side of the input in pixels")
    add("--holdout", type=fraction, help="share of train/ held out to choose checkpoints by")
    add("--weights", metavar="FILE", help="start from these weights (.pth, .ckpt, .safetensors ..)")
    add("--batch-size", type=positive, help="images per step")
    add("--workers", type=whole, default=0, help="processes that decode large images")
    add("--threads", type=positive, help="CPU threads of torch")
    add("--skip-bad-images", action="store_true", help="leave damaged images out, and count them")


def _stage_options(command: argparse.ArgumentParser) -> None:
    _source_options(command)
    add = command.add_argument
    add("--schedule", metavar="FILE", help="the recipe, YAML")
    add("--plan", metavar="FILE", help="take sparsities and bits from this plan of micronet.score")
    add("--from", metavar="RUN", help="start from an earlier run, or a saved network")
    add("--pretrained", action="store_true", default=None, help="download pretrained weights")
    add("--teacher", metavar="ARCH|RUN", help="distil from this network or run")
    add("--teacher-weights", metavar="FILE", help="the teacher's weights")
    add("--epochs", type=positive, help="overrides the recipe")
    add("--lr", type=float, help="overrides the recipe's base learning rate")
    add("--seed", type=whole, help="overrides the recipe")
    add("--accumulate", type=positive, help="train each batch in so many parts, one by one")
    add(
        "--amp",
        choices=("none", "bf16"),
        help="the type that float layers and backward passes compute in",
    )
    add("--model-ema", type=fraction, metavar="DECAY", help="validate and keep averaged weights")
    add("--compile", action="store_true", default=None, help="train through torch.compile")
    order = argparse.BooleanOptionalAction
    add("--channels-last", action=order, default=None, help="order of images in memory, default on")
    add("--checkpoint-every", type=every, metavar="STEPS|TIME", help="such as 500, 90s or 10m")
    add("--tensorboard", action="store_true", help="write events for TensorBoard into the run")
    add("--keep", type=whole, default=0, metavar="N", help="keep the last N epochs' checkpoints")
    add("--out", metavar="RUN", required=True, help="run directory to write")
    add("--resume", action="store_true", help="continue the run in --out where it stopped")


def _schedule_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", help="the recipe, YAML, or a schedule of Distiller's")
    command.add_argument("--arch", required=True, help="the network that it is for")
    command.add_argument("--plan", metavar="FILE", help="a plan whose sparsities and bits it takes")
    command.add_argument("--num-classes", type=positive, default=1000, help="default: 1000")


def _network_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", nargs="?", help="run directory, checkpoint or folder of a saved network"
    )
    command.add_argument("--arch", help="an architecture, where there is no run")
    add_own(command)
    command.add_argument("--image-size", type=positive, help="side of the input in pixels")
    command.add_argument("--num-classes", type=positive, default=1000, help="default: 1000")


def _sensitivity_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("run", help="run directory, checkpoint or folder of a saved network")
    add_own(command)
    add("--kind", choices=("element", "filter", "channel"), default="element")
    # Its old name goes on working.
    text = "START:STOP:STEP or a list, default 0.1:0.9:0.1"
    add("--sparsities", "--levels", default="0.1:0.9:0.1", help=text)
    add("--layers", nargs="+", default=["*"], help="names or patterns, default all")
    add("--data", help="default: the run's own")
    add("--batch-size", type=positive, default=128)
    add("--batches", type=positive, help="evaluate on the first so many batches only")
    add("--workers", type=whole, default=0, help="processes that decode large images")
    add("--threads", type=positive, help="CPU threads of torch")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for sensitivity.csv, search.csv and .svg",
    )


def _eval_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", nargs="?", help="run directory, checkpoint or folder of a saved network"
    )
    _source_options(command)
    command.add_argument(
        "--split", choices=("test", "validation"), help="default: test where there is one"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")


@dataclass(frozen=True)
class Invocation:
    """A command line as read: its command's options, and what concerns the process."""

    command: str
    options: CommandOptions
    threads: int | None


def parse(argv: Sequence[str] | None) -> Invocation:
    """Read a command line, and allow the networks of a user's own that it names.

    Raises:
        UserError: an option is unknown or its value is wrong.
    """
    args = vars(parser().parse_args(argv))
    allow_own(args)
    return Invocation(args["command"], _options(args), args.get("threads"))


def _options(args: Mapping[str, Any]) -> CommandOptions:
    command = args["command"]
    if command in STAGES:
        return TrainOptions(
            stage=command,
            request=Request.of(args),
            out=Path(args["out"]),
            **_named(args, "resume checkpoint_every keep tensorboard workers skip_bad_images"),
        )
    kinds: dict[str, type] = {
        "eval": EvalOptions,
        "schedule": ScheduleOptions,
        "summary": SummaryOptions,
        "sensitivity": SensitivityOptions,
    }
    kind = kinds[command]
    names = " ".join(field.name for field in dataclasses.fields(kind))
    options: CommandOptions = kind(**_named(args, names))
    return options


def _named(args: Mapping[str, Any], names: str) -> dict[str, Any]:
    return {name: args[name] for name in names.split()}


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def every(text: str) -> Every:
    """Parse a number of steps, or a time."""
    try:
        return parse_every(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def fraction(text: str) -> float:
    """Parse a number strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
