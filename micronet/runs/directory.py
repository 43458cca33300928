"""Run directories: what they hold, and how a network comes back out of one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from micronet.models import architectures
from micronet.models.architectures import Created
from micronet.models.failures import failures_of
from micronet.models.shared_tensors import first_names
from micronet.models.weights import copy_state, fitted
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.runs import checkpoint, folder_files, stored_state
from micronet.runs.checkpoint import Checkpoint, write_atomically
from micronet.utils.errors import UserError

# What a run needs to know of itself to be continued.
_CONFIG = {"stage", "recipe", "schedule", "arch", "data", "holdout", "image_size", "from"}


@dataclass(frozen=True)
class LoadedRun:
    """A network rebuilt from a checkpoint, in evaluation mode, with what was recorded of it."""

    model: nn.Module
    masks: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path
    checkpoint: Checkpoint

    @property
    def channels_last(self) -> bool:
        """The order in memory of the images that it was trained on."""
        return bool(self.meta.get("channels_last", True))


class RunDirectory:
    """The files of one run: configuration, metrics and checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.csv"
        self.layers_file = path / "layers.csv"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"

    def of_epoch(self, epochs: int) -> Path:
        """Return where the checkpoint after ``epochs`` epochs is kept."""
        return self.path / f"epoch-{epochs:04}.safetensors"

    def kept_epochs(self) -> list[Path]:
        """Return the checkpoints of whole epochs that are kept, oldest first."""
        return sorted(self.path.glob("epoch-*.safetensors"), key=lambda path: path.name)

    def create(self, config: dict[str, Any], schedule_yaml: str) -> None:
        """Make a fresh run directory.

        Raises:
            UserError: it already holds something, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A run that was killed before it had a configuration left this, and nothing to lose.
            begun = self.config_file.with_name(self.config_file.name + ".tmp")
            occupied = any(path != begun for path in self.path.iterdir())
        except OSError as error:
            raise UserError(
                f"cannot make run directory {str(self.path)!r}: {error.strerror}"
            ) from None
        if occupied:
            hint = "give --resume to continue it, or another --out"
            raise UserError(f"{str(self.path)!r} is not empty; {hint}")
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        # First, because --resume needs it, and nothing else.
        write_atomically(self.config_file, text.encode())
        write_atomically(self.path / "schedule.yaml", schedule_yaml.encode())

    def describe_layers(self, text: str) -> None:
        """Write how each layer computes, as CSV."""
        write_atomically(self.layers_file, text.encode())

    def config(self) -> dict[str, Any]:
        """Return the configuration that ``create`` recorded."""
        try:
            config = json.loads(self.config_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{str(self.path)!r} is no run directory: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{str(self.config_file)!r} is damaged: it is not JSON") from None
        if not isinstance(config, dict) or not _CONFIG <= config.keys():
            lacks = sorted(_CONFIG - set(config)) if isinstance(config, dict) else "a mapping"
            raise UserError(f"{str(self.config_file)!r} is damaged: it lacks {lacks}")
        return config

    def metrics(self) -> list[dict[str, Any]]:
        """Return one record per finished epoch, oldest first."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise UserError(
                f"{str(self.metrics_file)!r} is damaged: it is not JSON lines"
            ) from None

    def record(self, metrics: dict[str, Any]) -> None:
        """Add an epoch's record; a record of the same or a later epoch, left by a stop, goes."""
        records = [old for old in self.metrics() if old["epoch"] < metrics["epoch"]]
        records.append(metrics)
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.metrics_file, text.encode())
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(metrics))
        writer.writeheader()
        writer.writerows(records)
        write_atomically(self.summary_file, table.getvalue().encode())


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path means: the file itself, or a run's best, else last.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"there is no run or checkpoint {str(path)!r}")
        return path
    run = RunDirectory(path)
    for candidate in (run.best, run.last):
        if candidate.exists():
            return candidate
    raise UserError(
        f"{str(path)!r} holds no checkpoint (best.safetensors or last.safetensors), and no network "
        f"that was saved ({folder_files.WEIGHTS})"
    )


def read(path: str | Path) -> Checkpoint:
    """Read the network of a run directory, a checkpoint or a saved folder, as a checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(path)
    if folder_files.is_folder(path):
        return folder_files.read(path)
    return checkpoint.load(find_checkpoint(path))


def with_average(
    model: nn.Module, state: Mapping[str, Tensor], average: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a network's tensors, those that were averaged in place of the last ones."""
    first = first_names(model.state_dict())
    averaged = {first.get(name, name) for name in average}
    return {n: t for n, t in state.items() if first.get(n, n) not in averaged} | dict(average)


def load(path: str | Path, *, averaged: bool = True) -> LoadedRun:
    """Rebuild the network of a run directory, checkpoint or folder, quantized layers in place.

    Args:
        path: what ``read`` takes.
        averaged: take the average of the weights, which was validated, where the run kept one;
            else the weights that training goes on with.

    Raises:
        UserError: there is no checkpoint, it is damaged, or its tensors do not fit its network.
    """
    return rebuilt(read(path), averaged=averaged)


def rebuilt(
    found: Checkpoint, *, averaged: bool = True, model: nn.Module | None = None
) -> LoadedRun:
    """Rebuild the network of a checkpoint that was read; as ``load`` does.

    Args:
        found: the checkpoint.
        averaged: as of ``load``.
        model: a network in float that takes its tensors, in place of one that is created.
    """
    state, masks = found.group("model"), prune.Masks(found.group("mask"))
    bits = _bits(found)
    if model is None:
        model = _created(found, bits, state)
        if found.meta.get("transform_input"):
            architectures.transform_input_(model)
    with _named(found.path):
        quantize.convert_(model, bits)
    state = with_average(model, state, found.group("average") if averaged else {})
    state = fitted(model, state, found.path)
    with _named(found.path):
        stored_state.check(model, state, masks)
    copy_state(model, state, found.path)
    quantize.share_masks(model, masks.bits)
    return LoadedRun(model.eval(), masks.bits, found.meta, found.path, found)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Begin what is wrong with a file's contents with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from None


def _bits(found: Checkpoint) -> dict[str, LayerBits]:
    try:
        return quantize.bits_from_dict(found.meta["bits"])
    except ValueError as error:
        raise UserError(f"checkpoint {str(found.path)!r}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"checkpoint {str(found.path)!r} lacks {error} in its header") from None


def _created(
    found: Checkpoint, bits: Mapping[str, LayerBits], state: Mapping[str, Tensor]
) -> nn.Module:
    """Create the network that a checkpoint's header names."""
    try:
        made = Created(*(found.meta[key] for key in ("arch", "num_classes", "channels")))
    except KeyError as error:
        raise UserError(f"checkpoint {str(found.path)!r} lacks {error} in its header") from None
    if made.arch is None:
        raise UserError(
            f"{str(found.path)!r} holds a network whose making is unknown: in Python give "
            "load(model=...) a fresh one of its class"
        )
    for key in ("num_classes", "channels"):
        value = getattr(made, key)
        if type(value) is not int or value < 1:
            raise UserError(f"checkpoint {str(found.path)!r} says its {key} are {value!r}")
    with failures_of(f"the network of {str(found.path)!r} cannot be created"):
        stored_state.structure_of(made, bits, state, found.path)
        return architectures.create_model(made.arch, made.num_classes, channels=made.channels)
