"""A recipe: strict YAML in, frozen dataclasses out, and back to plain data for a run."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from micronet.errors import UserError, nearest


class Inherit(enum.Enum):
    """Marks a precision that an override does not mention, as opposed to one it sets to null."""

    INHERIT = "inherit"


@dataclass(frozen=True)
class TrainSection:
    """How the weights are optimised: SGD with momentum under a cosine or exponential rate."""

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    lr_schedule: str = "cosine"
    gamma: float = 0.9
    warmup_epochs: int = 0
    lr_start_epoch: int = 0
    label_smoothing: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class PruneGroup:
    """Layers that share one gradual pruning target."""

    layers: tuple[str, ...]
    final_sparsity: float
    initial_sparsity: float = 0.05


@dataclass(frozen=True)
class PruneSection:
    """When masks are chosen: every ``frequency`` epochs in ``[start_epoch, end_epoch)``."""

    groups: tuple[PruneGroup, ...]
    end_epoch: int
    start_epoch: int = 0
    frequency: int = 1


@dataclass(frozen=True)
class WeightPrecision:
    """Bits of a weight code; 2.4 stands for ``floor(2**2.4) = 5`` levels."""

    bits: float


@dataclass(frozen=True)
class ActivationPrecision:
    """Bits of an activation code, and the decay of the moving average of its range."""

    bits: float
    decay: float = 0.99


@dataclass(frozen=True)
class QuantizeOverride:
    """Layers whose precision differs; null keeps an operand in float, absence inherits."""

    layers: tuple[str, ...]
    weights: WeightPrecision | Inherit | None = Inherit.INHERIT
    activations: ActivationPrecision | Inherit | None = Inherit.INHERIT


@dataclass(frozen=True)
class QuantizeSection:
    """The precision of every convolution and linear layer from ``start_epoch`` on."""

    weights: WeightPrecision | None
    activations: ActivationPrecision | None
    overrides: tuple[QuantizeOverride, ...] = ()
    start_epoch: int = 0


@dataclass(frozen=True)
class DistillSection:
    """Hinton et al. 2015: ``w*CE + (1-w)*T^2*KL(teacher || student)``."""

    temperature: float = 2.0
    student_weight: float = 0.3


@dataclass(frozen=True)
class Schedule:
    """A whole recipe; a section that the file leaves out is None."""

    train: TrainSection | None = None
    prune: PruneSection | None = None
    quantize: QuantizeSection | None = None
    distill: DistillSection | None = None
    path: str = "<none>"


def load_schedule(path: str | Path) -> Schedule:
    """Read a recipe from a YAML file.

    Raises:
        UserError: the file cannot be read, is not YAML, or a key or value in it is not allowed.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read schedule {str(path)!r}: {reason}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"schedule {str(path)!r} is not valid YAML: {problem}") from None
    return schedule_from_dict(document, str(path))


def schedule_from_dict(document: object, path: str) -> Schedule:
    """Build a recipe from plain data, as YAML or a run's ``config.json`` holds it."""
    if not isinstance(document, dict) or not document:
        raise UserError(f"schedule {path!r} holds no sections")
    if "path" in document:
        raise UserError(f"schedule {path!r} has an unknown key 'path'")
    schedule = _build(Schedule, document, "", path)
    schedule = dataclasses.replace(schedule, path=path)
    _check(schedule)
    return schedule


def schedule_to_dict(schedule: Schedule) -> dict[str, Any]:
    """Turn a recipe into plain data that ``schedule_from_dict`` reads back."""
    plain = _plain(schedule)
    plain.pop("path")
    return {key: value for key, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        said = ((name, item) for name, item in pairs if item not in (Inherit.INHERIT, ()))
        return {name: _plain(item) for name, item in said}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _build(cls: type, mapping: object, where: str, path: str) -> Any:
    """Build the dataclass ``cls`` from ``mapping``; ``where`` is the dotted key so far."""
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: {where or 'the file'} must be a mapping, not {mapping!r}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in mapping:
        if key not in known:
            hint = nearest(str(key), known)
            raise UserError(f"{path}: unknown key {_join(where, key)!r}{hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in known.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], _join(where, name), path)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{path}: key {_join(where, name)!r} is missing")
    return cls(**values)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: object, where: str, path: str) -> Any:
    """Check ``value`` against a type hint and convert it."""
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _convert_optional(hint, value, where, path)
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise UserError(f"{path}: {where} must be a list with at least one entry")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{where}[{i}]", path) for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, path)
    return _convert_scalar(hint, value, where, path)


def _convert_optional(hint: Any, value: object, where: str, path: str) -> Any:
    choices = [t for t in typing.get_args(hint) if t is not Inherit]
    if value is None and type(None) in choices:
        return None
    return _convert(next(t for t in choices if t is not type(None)), value, where, path)


def _convert_scalar(hint: type, value: object, where: str, path: str) -> object:
    whole_for_real = hint is float and isinstance(value, int) and not isinstance(value, bool)
    if whole_for_real:
        return float(typing.cast(int, value))
    if type(value) is not hint:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
        raise UserError(f"{path}: {where} must be {kind}, not {value!r}")
    return value


def _require(condition: bool, path: str, sentence: str) -> None:
    if not condition:
        raise UserError(f"{path}: {sentence}")


def _check(schedule: Schedule) -> None:
    """Hold every number to its range."""
    if schedule.train is not None:
        check_train(schedule.train, schedule.path)
    if schedule.prune is not None:
        _check_prune(schedule.prune, schedule.path)
    if schedule.quantize is not None:
        _check_quantize(schedule.quantize, schedule.path)
    if schedule.distill is not None:
        d = schedule.distill
        _require(
            d.temperature > 0, schedule.path, f"distill.temperature {d.temperature} is not > 0"
        )
        inside = 0 <= d.student_weight <= 1
        _require(
            inside, schedule.path, f"distill.student_weight {d.student_weight} is not in [0, 1]"
        )


def check_train(t: TrainSection, path: str) -> None:
    """Hold a train section to its ranges; also used after command-line overrides.

    Raises:
        UserError: a number is out of range or the learning-rate schedule is unknown.
    """
    names = ("cosine", "exponential")
    hint = nearest(t.lr_schedule, names)
    _require(t.lr_schedule in names, path, f"train.lr_schedule {t.lr_schedule!r} is unknown{hint}")
    for key in ("epochs", "batch_size"):
        value = getattr(t, key)
        _require(value >= 1, path, f"train.{key} {value} is not at least 1")
    for key in ("weight_decay", "warmup_epochs", "lr_start_epoch", "seed"):
        value = getattr(t, key)
        _require(0 <= value < 2**63, path, f"train.{key} {value} is negative or too large")
    _require(0 < t.lr < float("inf"), path, f"train.lr {t.lr} is not a positive number")
    for key in ("momentum", "label_smoothing"):
        value = getattr(t, key)
        _require(0 <= value < 1, path, f"train.{key} {value} is not in [0, 1)")
    _require(0 < t.gamma <= 1, path, f"train.gamma {t.gamma} is not in (0, 1]")
    _require(t.momentum > 0 or not t.nesterov, path, "train.nesterov needs train.momentum > 0")


def _check_prune(p: PruneSection, path: str) -> None:
    _require(p.frequency >= 1, path, f"prune.frequency {p.frequency} is not at least 1")
    _require(p.start_epoch >= 0, path, f"prune.start_epoch {p.start_epoch} is negative")
    later = p.end_epoch > p.start_epoch
    _require(later, path, f"prune.end_epoch {p.end_epoch} is not after {p.start_epoch}")
    for i, g in enumerate(p.groups):
        where = f"prune.groups[{i}]"
        for key in ("initial_sparsity", "final_sparsity"):
            value = getattr(g, key)
            _require(0 <= value < 1, path, f"{where}.{key} {value} is not in [0, 1)")
        _require(
            g.final_sparsity >= g.initial_sparsity,
            path,
            f"{where}.final_sparsity {g.final_sparsity} is below "
            f"{where}.initial_sparsity {g.initial_sparsity}",
        )
    some = any(g.final_sparsity > 0 for g in p.groups)
    _require(some, path, "prune.groups prunes nothing: every final_sparsity is 0")


def _check_quantize(q: QuantizeSection, path: str) -> None:
    _require(q.start_epoch >= 0, path, f"quantize.start_epoch {q.start_epoch} is negative")
    precisions: list[tuple[str, Any]] = [
        ("quantize.weights", q.weights),
        ("quantize.activations", q.activations),
    ]
    for i, o in enumerate(q.overrides):
        precisions.append((f"quantize.overrides[{i}].weights", o.weights))
        precisions.append((f"quantize.overrides[{i}].activations", o.activations))
    for where, precision in precisions:
        if precision is None or isinstance(precision, Inherit):
            continue
        inside = 1 <= precision.bits <= 8
        _require(inside, path, f"{where}.bits {precision.bits} is not between 1 and 8")
        if isinstance(precision, ActivationPrecision):
            decays = 0 <= precision.decay < 1
            _require(decays, path, f"{where}.decay {precision.decay} is not in [0, 1)")
