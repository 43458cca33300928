"""A recipe: strict YAML in, frozen dataclasses out, and back to plain data for a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from micronet.errors import UserError, nearest
from micronet.strict import Inherit, build, to_plain

# Where the step of a quantiser comes from.
STEPS = ("range", "learned")


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
    """Bits of a weight code; 2.4 stands for ``floor(2**2.4) = 5`` levels.

    The step between two values follows the range of the weights, or is itself learned.
    """

    bits: float
    step: str = "range"


@dataclass(frozen=True)
class ActivationPrecision:
    """Bits of an activation code; its step follows a moving average of the range, or is learned.

    The decay is that of the average, and has no meaning for a learned step.
    """

    bits: float
    decay: float = 0.99
    step: str = "range"


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
    schedule = build(Schedule, document, "", path)
    schedule = dataclasses.replace(schedule, path=path)
    _check(schedule)
    return schedule


def schedule_to_dict(schedule: Schedule) -> dict[str, Any]:
    """Turn a recipe into plain data that ``schedule_from_dict`` reads back."""
    plain = to_plain(schedule)
    plain.pop("path")
    return {key: value for key, value in plain.items() if value is not None}


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
        if precision is not None and not isinstance(precision, Inherit):
            _check_precision(precision, where, path)


def _check_precision(p: WeightPrecision | ActivationPrecision, where: str, path: str) -> None:
    _require(1 <= p.bits <= 8, path, f"{where}.bits {p.bits} is not between 1 and 8")
    hint = nearest(p.step, STEPS)
    known = f"{where}.step {p.step!r} is not one of {', '.join(STEPS)}{hint}"
    _require(p.step in STEPS, path, known)
    learned = p.step == "learned"
    if isinstance(p, ActivationPrecision):
        _require(0 <= p.decay < 1, path, f"{where}.decay {p.decay} is not in [0, 1)")
        default = p.decay == ActivationPrecision.decay
        unused = f"{where}.decay {p.decay} is of no use: a learned step follows no average"
        _require(default or not learned, path, unused)
    elif learned:
        # Two levels would be -step and 0: no positive level, which the initial step divides by.
        few = f"{where}.bits {p.bits} is 2 levels, but a learned step of weights needs 3 or more"
        _require(2.0**p.bits >= 3, path, few)
