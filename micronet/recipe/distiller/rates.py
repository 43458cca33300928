"""Distiller's learning-rate schedulers, which are torch's and two of its own, as recipe keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from micronet.recipe.distiller.common import GAMMAS, OTHER_RATES, error, no_counterpart
from micronet.utils.errors import nearest

_JUMP = (
    "the rate falls by gamma at each epoch from the policy's start; Distiller's held still until "
    "then and jumped to gamma**epoch"
)

# Keys that change no rate, and those of ReduceLROnPlateau that change when it falls.
_IDLE = ("last_epoch", "verbose")
_PATIENT = "the rate may fall again after patience epochs without a better top-1"
_UNLIKE = {
    "cooldown": f"it has no counterpart: {_PATIENT}",
    "threshold": f"it has no counterpart: {_PATIENT}, however little",
    "threshold_mode": f"it has no counterpart: {_PATIENT}, however little",
}


def learning_rate_keys(
    settings: Mapping[str, Any], start: int, where: str, path: str, notes: list[str]
) -> dict[str, Any]:
    """Return the keys of a train section that make a scheduler's rate.

    Args:
        settings: the scheduler's keys.
        start: first epoch of its policy.
        where: the scheduler's key in the file.
        path: the file.
        notes: what differs is added here.

    Raises:
        UserError: the scheduler has no counterpart.
    """
    kind = settings["class"]
    _check(settings, where, path)
    make = _CLASSES[kind][1]
    notes += [f"{where}.{key}: {note}" for key, note in _UNLIKE.items() if settings.get(key)]
    try:
        made = make(settings, start)
    except (KeyError, TypeError, ValueError) as problem:
        raise error(path, where, f"lacks or mistakes {problem}") from None
    if start > 0 and kind == "ExponentialLR":
        notes.append(f"{where}: {_JUMP}")
    elif start > 0:
        notes.append(f"{where}: it counts from epoch 0, not from its policy's start, {start}")
    return made


def _check(settings: Mapping[str, Any], where: str, path: str) -> None:
    """Hold a scheduler to a class and keys that have a counterpart."""
    kind = settings["class"]
    if kind not in _CLASSES and hasattr(torch.optim.lr_scheduler, kind):
        raise error(path, where, f"is of class {kind}, which {no_counterpart(OTHER_RATES)}")
    if kind not in _CLASSES:
        raise error(path, where, f"is of an unknown class, {kind!r}{nearest(kind, _CLASSES)}")
    keys = _CLASSES[kind][0]
    for key in settings:
        if key not in ("class", *keys, *_IDLE):
            raise error(path, f"{where}.{key}", f"is unknown{nearest(str(key), keys)}")
    gammas = settings.get("gammas")
    if isinstance(gammas, list) and len(set(map(str, gammas))) > 1:
        raise error(path, f"{where}.gammas", f"differ, which {no_counterpart(GAMMAS)}")


def _exponential(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    return {"lr_schedule": "exponential", "gamma": s["gamma"], "lr_start_epoch": start}


def _step(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    size = int(s["step_size"])
    # torch's goes on for ever; a hundred falls are beyond any training.
    milestones = [size * i for i in range(1, 101)]
    return {"lr_schedule": "step", "gamma": s.get("gamma", 0.1), "milestones": milestones}


def _multi_step(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    gamma = s.get("gamma", 0.1)
    return {"lr_schedule": "step", "gamma": gamma, "milestones": list(s["milestones"])}


def _multi_gamma(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    gamma, *_ = s["gammas"]
    return {"lr_schedule": "step", "gamma": gamma, "milestones": list(s["milestones"])}


def _cosine(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    return {"lr_schedule": "cosine", "lr_min": s.get("eta_min", 0.0), "epochs": s["T_max"]}


def _polynomial(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    return {"lr_schedule": "polynomial", "power": s["power"], "epochs": s["T_max"]}


def _plateau(s: Mapping[str, Any], start: int) -> dict[str, Any]:
    made = {"lr_schedule": "plateau", "gamma": s.get("factor", 0.1)}
    return made | {"patience": s.get("patience", 10), "lr_min": s.get("min_lr", 0.0)}


_Make = Callable[[Mapping[str, Any], int], dict[str, Any]]
_CLASSES: dict[str, tuple[tuple[str, ...], _Make]] = {
    "ExponentialLR": (("gamma",), _exponential),
    "StepLR": (("step_size", "gamma"), _step),
    "MultiStepLR": (("milestones", "gamma"), _multi_step),
    "MultiStepMultiGammaLR": (("milestones", "gammas"), _multi_gamma),
    "CosineAnnealingLR": (("T_max", "eta_min"), _cosine),
    "PolynomialLR": (("T_max", "power"), _polynomial),
    "ReduceLROnPlateau": (("mode", "factor", "patience", "min_lr", "eps", *_UNLIKE), _plateau),
}
