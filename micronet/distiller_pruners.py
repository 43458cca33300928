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
_STRUCTURES = {"3D": "filter", "Filters": "filter", "Channels": "channel"}


def prune_group(
    settings: Mapping[str, Any],
    when: tuple[int, int, int],
    where: str,
    path: str,
    notes: list[str],
) -> dict[str, Any]:
    """Return one pruner as a group, with its epochs and whether it fires ``once``.

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
    group = _by_class(kind, settings, where, path)
    start, end, frequency = when
    gradual = kind.endswith("AGP") or kind == "AutomatedGradualPruner"
    group |= {"start_epoch": start, "end_epoch": end, "frequency": frequency, "once": not gradual}
    if gradual and len(range(start, end, frequency)) == 1:
        notes.append(f"{where}: it fires once, straight at its final sparsity; Distiller failed")
    if not gradual and len(range(start, end, frequency)) > 1:
        notes.append(f"{where}: its masks are chosen once, in epoch {start}, and kept from then on")
    if "final_sparsity" in group:
        note = "masks prune exactly the target, where Distiller also pruned all ties with the last"
        if note not in notes:
            notes.append(note)
    return group


def _by_class(kind: str, settings: Mapping[str, Any], where: str, path: str) -> dict[str, Any]:
    if kind in ("SparsityLevelParameterPruner", "MagnitudeParameterPruner", "SensitivityPruner"):
        return _by_level(kind, settings, where, path)
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


def _by_level(kind: str, settings: Mapping[str, Any], where: str, path: str) -> dict[str, Any]:
    """Return a one-shot pruner whose layers all have the same number."""
    (key,) = _CLASSES[kind]
    ours = {"levels": "final_sparsity", "thresholds": "threshold", "sensitivities": "sensitivity"}
    numbers = settings.get(key)
    if not isinstance(numbers, dict) or not numbers:
        place_ = place(path, f"{where}.{key}")
        raise UserError(f"{place_}: {where}.{key} is not a mapping of weights to numbers")
    values = set(map(str, numbers.values()))
    if len(values) > 1:
        place_ = place(path, f"{where}.{key}")
        raise UserError(
            f"{place_}: {where}.{key} has several numbers: make one pruner and policy of each"
        )
    layers = ["*"] if "*" in numbers else _names(list(numbers), f"{where}.{key}", path)
    return {"layers": layers, ours[key]: next(iter(numbers.values()))}


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
