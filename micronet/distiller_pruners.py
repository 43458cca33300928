"""Distiller's pruners, as groups of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micronet.errors import UserError, nearest
from micronet.places import place

_GRADUAL = ("initial_sparsity", "final_sparsity", "weights")
_RANKED = (*_GRADUAL, "group_type", "group_dependency", "kwargs")
# Which keys each class takes; whatever else a file gives has no counterpart.
_CLASSES = {
    "AutomatedGradualPruner": _GRADUAL,
    "L1RankedStructureParameterPruner_AGP": _RANKED,
    "SparsityLevelParameterPruner": ("levels",),
    "MagnitudeParameterPruner": ("thresholds",),
    "SensitivityPruner": ("sensitivities",),
    "L1RankedStructureParameterPruner": ("desired_sparsity", "weights", "group_type"),
}
# Of the classes that give each weight a number: what the number is here.
_NUMBERS = {"levels": "final_sparsity", "thresholds": "threshold", "sensitivities": "sensitivity"}
_STRUCTURES = {"3D": "filter", "Filters": "filter", "Channels": "channel"}
_TIES = "masks prune exactly the target, where Distiller also pruned all ties with the last"
_LEADER = "each layer chooses its own pieces; with group_dependency Distiller's followed a leader"


def prune_groups(
    settings: Mapping[str, Any],
    when: tuple[int, int, int],
    where: str,
    path: str,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Return one pruner as groups, each with its epochs and whether it fires ``once``.

    Args:
        settings: the pruner's keys.
        when: first epoch, the epoch after the last, frequency.
        where: the pruner's key in the file.
        path: the file.
        notes: what differs is added here.

    Raises:
        UserError: the pruner is malformed, or has no counterpart.
    """
    kind = settings["class"]
    if kind not in _CLASSES:
        hint = nearest(kind, _CLASSES)
        raise UserError(f"{place(path, where)}: {where}: class {kind!r} has no counterpart{hint}")
    for key in settings:
        if key not in ("class", *_CLASSES[kind]):
            hint = nearest(str(key), _CLASSES[kind])
            raise UserError(f"{place(path, f'{where}.{key}')}: {where}.{key} is unknown{hint}")
    number = _CLASSES[kind][0]
    if number in _NUMBERS:
        groups = _by_number(number, settings.get(number), f"{where}.{number}", path)
    else:
        groups = [_by_target(settings, where, path)]
    start, end, frequency = when
    gradual = kind.endswith("AGP") or kind == "AutomatedGradualPruner"
    _note(settings, groups, len(range(start, end, frequency)), gradual, where, notes)
    epochs = {"start_epoch": start, "end_epoch": end, "frequency": frequency, "once": not gradual}
    return [group | epochs for group in groups]


def _note(
    settings: Mapping[str, Any],
    groups: list[dict[str, Any]],
    firings: int,
    gradual: bool,
    where: str,
    notes: list[str],
) -> None:
    if gradual and firings == 1:
        notes.append(f"{where}: it fires once, straight at its final sparsity; Distiller failed")
    if not gradual and firings > 1:
        notes.append(f"{where}: its masks are chosen once, at its first epoch, and kept")
    for key, note in (("group_dependency", _LEADER), ("kwargs", "its kwargs have no counterpart")):
        if settings.get(key):
            notes.append(f"{where}: {note}")
    if _TIES not in notes and any("final_sparsity" in group for group in groups):
        notes.append(_TIES)


def _by_target(settings: Mapping[str, Any], where: str, path: str) -> dict[str, Any]:
    """Return a pruner that aims at one sparsity."""
    layers = _names(settings.get("weights"), f"{where}.weights", path)
    final = settings.get("final_sparsity", settings.get("desired_sparsity"))
    group: dict[str, Any] = {"layers": layers, "final_sparsity": final}
    if "initial_sparsity" in settings:
        group["initial_sparsity"] = settings["initial_sparsity"]
    if "group_type" in settings:
        structure = str(settings["group_type"])
        if structure not in _STRUCTURES:
            key = f"{where}.group_type"
            raise UserError(f"{place(path, key)}: {key} {structure!r} has no counterpart")
        group["structure"] = _STRUCTURES[structure]
    return group


def _by_number(key: str, numbers: object, where: str, path: str) -> list[dict[str, Any]]:
    """Return a pruner that gives each weight, or all others by ``*``, a number: a group of each."""
    if not isinstance(numbers, dict) or not numbers:
        raise UserError(f"{place(path, where)}: {where} is not a mapping of weights to numbers")
    alike: dict[str, list[str]] = {}
    for weight, number in numbers.items():
        layers = ["*"] if weight == "*" else _names([weight], where, path)
        alike.setdefault(str(number), []).extend(layers)
    values = {str(number): number for number in numbers.values()}
    return [{"layers": layers, **_target(key, values[text])} for text, layers in alike.items()]


def _target(key: str, number: object) -> dict[str, Any]:
    """Return a number as a group's target; 0 of any kind keeps layers out of the others' ``*``."""
    return {"final_sparsity": 0.0} if number == 0 else {_NUMBERS[key]: number}


def _names(weights: object, where: str, path: str) -> list[str]:
    """Return the layers of weights such as ``module.layer1.0.conv1.weight``."""
    if not isinstance(weights, list) or not weights:
        raise UserError(f"{place(path, where)}: {where} is not a list of weights")
    names = []
    for weight in map(str, weights):
        if not weight.endswith(".weight"):
            raise UserError(f"{place(path, where)}: {where}: {weight!r} is no layer's weight")
        names.append(weight.removeprefix("module.").removesuffix(".weight"))
    return names
