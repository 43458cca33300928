"""Distiller's learning-rate schedulers, which are torch's and two of its own, as recipe keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from micronet.errors import UserError, nearest
from micronet.places import place

_JUMP = (
    "the rate falls by gamma at each epoch from the policy's start; Distiller's held still until "
    "then and jumped to gamma**epoch"
)


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
    if kind not in _CLASSES:
        hint = nearest(kind, _CLASSES)
        raise UserError(f"{place(path, where)}: {where}: class {kind!r} has no counterpart{hint}")
    keys, make = _CLASSES[kind]
    for key in settings:
        if key not in ("class", *keys):
            hint = nearest(str(key), keys)
            raise UserError(f"{place(path, f'{where}.{key}')}: {where}.{key} is unknown{hint}")
    try:
        made = make(settings, start)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place(path, where)}: {where} lacks or mistakes {error}") from None
    if start > 0 and kind == "ExponentialLR":
        notes.append(f"{where}: {_JUMP}")
    elif start > 0:
        notes.append(f"{where}: it counts from epoch 0, not from its policy's start, {start}")
    return made


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
    gammas = set(s["gammas"])
    if len(gammas) != 1:
        raise ValueError("gammas: only equal ones have a counterpart")
    return {"lr_schedule": "step", "gamma": gammas.pop(), "milestones": list(s["milestones"])}


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
    "ReduceLROnPlateau": (("mode", "factor", "patience", "min_lr"), _plateau),
}
