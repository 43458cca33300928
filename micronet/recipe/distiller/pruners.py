"""Distiller's pruners, as groups of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micronet.recipe.distiller import common
from micronet.recipe.distiller.common import error, no_counterpart
from micronet.utils.errors import nearest

_GRADUAL = ("initial_sparsity", "final_sparsity", "weights")
_GROUPS = ("weights", "group_type", "group_dependency", "kwargs", "noise", "group_size")
# Which keys each class takes; whatever else a file gives has no counterpart.
_CLASSES = {
    "AutomatedGradualPruner": _GRADUAL,
    "L1RankedStructureParameterPruner_AGP": (*_GRADUAL, *_GROUPS),
    "SparsityLevelParameterPruner": ("levels",),
    "MagnitudeParameterPruner": ("thresholds",),
    "SensitivityPruner": ("sensitivities",),
    "L1RankedStructureParameterPruner": ("desired_sparsity", *_GROUPS),
}
_RANKED = ("ActivationAPoZRanked", "ActivationMeanRanked", "GradientRanked", "RandomRanked")
# Classes without a counterpart.
_ROWS = {
    **dict.fromkeys(("SplicingPruner", "BaiduRNNPruner"), common.SPLICING),
    **dict.fromkeys((f"{kind}FilterPruner" for kind in (*_RANKED, "Bernoulli")), common.RANKING),
    **dict.fromkeys(
        (f"{kind}FilterPruner_AGP" for kind in (*_RANKED, "Bernoulli")), common.RANKING
    ),
    "L2RankedStructureParameterPruner": common.RANKING,
    "L2RankedStructureParameterPruner_AGP": common.RANKING,
    "RandomLevelStructureParameterPruner": common.RANKING,
    "FMReconstructionChannelPruner": common.RANKING,
    "StructureParameterPruner": common.RANKING,
}
# Of the classes that give each weight a number: what the number is here.
_NUMBERS = {"levels": "final_sparsity", "thresholds": "threshold", "sensitivities": "sensitivity"}
# Rows of a linear layer's weight are what Distiller calls its columns: those of one input.
_STRUCTURES = {"3D": "filter", "Filters": "filter", "Channels": "channel", "Rows": "channel"}
_TIES = "masks prune exactly the target, where Distiller also pruned all ties with the last"
_LEADER = "each layer chooses its own pieces; with group_dependency Distiller's followed a leader"
_NOTES = {"group_dependency": _LEADER, "noise": "pieces are ranked without noise"}
# Arguments of a policy whose masks are no masks here, and what the others differ in.
_ARGUMENT_ROWS = {
    "use_double_copies": common.LOOSE_MASKS,
    "discard_masks_at_minibatch_end": common.LOOSE_MASKS,
    "levels": common.LEVELS,
}
_ALWAYS = "masks hold from the epoch that chose them to the end, after every step"
_ARGUMENT_NOTES = {
    "keep_mask": _ALWAYS,
    "mask_on_forward_only": _ALWAYS,
    "mask_gradients": _ALWAYS,
    "mini_batch_pruning_frequency": "masks are chosen at the beginning of epochs alone",
    "skip_first_minibatch": "masks are chosen at the beginning of epochs alone",
    "fold_batchnorm": "weights are ranked as they are, not multiplied by what normalizes them",
}


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
    if kind in _ROWS:
        raise error(path, where, f"is of class {kind}, which {no_counterpart(_ROWS[kind])}")
    if kind not in _CLASSES:
        raise error(path, where, f"is of an unknown class, {kind!r}{nearest(kind, _CLASSES)}")
    for key in settings:
        if key not in ("class", *_CLASSES[kind]):
            hint = nearest(str(key), _CLASSES[kind])
            raise error(path, f"{where}.{key}", f"is unknown{hint}")
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
    notes += [f"{where}: {note}" for key, note in _NOTES.items() if settings.get(key)]
    if _TIES not in notes and any("final_sparsity" in group for group in groups):
        notes.append(_TIES)


def _by_target(settings: Mapping[str, Any], where: str, path: str) -> dict[str, Any]:
    """Return a pruner that aims at one sparsity."""
    layers = _names(settings.get("weights"), f"{where}.weights", path)
    final = settings.get("final_sparsity", settings.get("desired_sparsity"))
    group: dict[str, Any] = {"layers": layers, "final_sparsity": final}
    if "initial_sparsity" in settings:
        group["initial_sparsity"] = settings["initial_sparsity"]
    if "group_type" in _CLASSES[settings["class"]]:
        group["structure"] = _structure(settings, where, path)
    return group


def _structure(settings: Mapping[str, Any], where: str, path: str) -> str:
    if "group_type" not in settings:
        raise error(path, where, "has no group_type")
    kind = str(settings["group_type"])
    if settings.get("group_size", 1) != 1:
        raise error(path, f"{where}.group_size", no_counterpart(common.OTHER_GROUPS))
    if kind == "Blocks":
        arguments = settings.get("kwargs")
        shape = arguments.get("block_shape") if isinstance(arguments, dict) else None
        rows = shape[0] if isinstance(shape, list) and shape[1:] == [1, 1, 1] else None
        if type(rows) is not int or rows < 1:
            raise error(path, f"{where}.group_type", f"{kind!r} {no_counterpart(common.BLOCKS)}")
        return f"{rows}x1"
    if kind not in _STRUCTURES:
        raise error(path, f"{where}.group_type", f"{kind!r} {no_counterpart(common.OTHER_GROUPS)}")
    return _STRUCTURES[kind]


def check_arguments(arguments: object, where: str, path: str, notes: list[str]) -> None:
    """Hold a pruning policy's arguments to those whose effect there is here, and note the others.

    Raises:
        UserError: they are no mapping, or one is unknown or has no counterpart.
    """
    if not isinstance(arguments, dict):
        raise error(path, where, "is not a mapping")
    for key, value in arguments.items():
        if key not in _ARGUMENT_NOTES and key not in _ARGUMENT_ROWS:
            hint = nearest(str(key), [*_ARGUMENT_NOTES, *_ARGUMENT_ROWS])
            raise error(path, f"{where}.{key}", f"is unknown{hint}")
        if value and key in _ARGUMENT_ROWS:
            raise error(path, f"{where}.{key}", no_counterpart(_ARGUMENT_ROWS[key]))
        if value:
            notes.append(f"{where}.{key}: {_ARGUMENT_NOTES[key]}")


def _by_number(key: str, numbers: object, where: str, path: str) -> list[dict[str, Any]]:
    """Return a pruner that gives each weight, or all others by ``*``, a number: a group of each."""
    if not isinstance(numbers, dict) or not numbers:
        raise error(path, where, "is not a mapping of weights to numbers")
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
    """Return the layers of weights such as ``module.layer1.0.conv1.weight``: a list, or text.

    Distiller looks for each weight's name in either, so that text may hold several.
    """
    if isinstance(weights, str):
        weights = weights.replace(",", " ").split()
    if not isinstance(weights, list) or not weights:
        raise error(path, where, "is not a list of weights")
    names = []
    for weight in map(str, weights):
        if not weight.endswith(".weight"):
            problem = f"{weight!r} is no layer's weight and {no_counterpart(common.OTHER_WEIGHTS)}"
            raise error(path, where, problem)
        names.append(common.without_parallel(weight).removesuffix(".weight"))
    return names
