"""Distiller's schedule files, read as they are: one of them becomes a recipe and some notes.

Gradual and one-shot pruning, range-linear quantization-aware training and learning rates have a
counterpart. What differs is noted, each with its reason; what has none is an error. Nothing of
the file is executed: class names are only compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from micronet.recipe.distiller import common
from micronet.recipe.distiller.common import error, no_counterpart
from micronet.recipe.distiller.pruners import check_arguments, prune_groups
from micronet.recipe.distiller.quantizers import check_class, quantize_section
from micronet.recipe.distiller.rates import learning_rate_keys
from micronet.recipe.yaml_source import YamlPath
from micronet.utils.errors import UserError, nearest

_KINDS = {
    "pruner": "pruners",
    "quantizer": "quantizers",
    "lr_scheduler": "lr_schedulers",
    "extension": "extensions",
}
_SECTIONS = ("version", *_KINDS.values(), "regularizers", "policies")
_EPOCHS = ("starting_epoch", "ending_epoch", "frequency", "epochs")
# Extensions that take pruned filters or channels out of the network.
_THINNING = ("FilterRemover", "ChannelRemover", "StructureRemover")


@dataclass
class Converted:
    """A recipe as plain data, and what of it means something else than it did in Distiller.

    ``made_of`` says which of the file's keys became each of the recipe's.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made_of: dict[str, str] = field(default_factory=dict)

    def path(self, path: str) -> YamlPath:
        """Return the file's path with the lines that the recipe's keys come from."""
        lines = path.lines if isinstance(path, YamlPath) else {}
        found = {ours: lines[theirs] for ours, theirs in self.made_of.items() if theirs in lines}
        return YamlPath(path, found)


def is_distiller(document: object) -> bool:
    """Whether plain data is in the form of a file of Distiller's, a schedule or another."""
    if not isinstance(document, dict):
        return False
    sections = {str(key) for key in document} - {"version"}
    if "policies" in sections or (sections and sections <= set(_SECTIONS)):
        return True
    return _other_kind(document) is not None


def _other_kind(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what a file is that is no schedule, and the row of what it is for."""
    values = list(document.values())
    if document.keys() == {"network"} and isinstance(values[0], dict):
        return "a list of the layers that AMC prunes", common.AMC
    if values and all(isinstance(v, dict) and {"inputs", "output"} & v.keys() for v in values):
        return "statistics of activations for post-training quantization", common.POST_TRAINING
    return None


def convert(document: Mapping[str, Any], path: str) -> Converted:
    """Turn a Distiller schedule into a recipe.

    Args:
        document: the file's plain data.
        path: of the file, for messages.

    Raises:
        UserError: a part of it is malformed, or has no counterpart.
    """
    policies = _policies(document, path)
    found, groups = Converted(), []
    for index, policy in enumerate(policies):
        groups += _read_policy(found, document, policy, f"policies[{index}]", path)
    found.notes += _unused(document, policies)
    if groups:
        _check_apart(groups, path)
        for index, group in enumerate(groups):
            found.made_of[f"prune.groups[{index}]"] = group.pop("pruner")
        found.recipe["prune"], found.made_of["prune"] = _prune_section(groups, path), "policies"
    return found


def _policies(document: Mapping[str, Any], path: str) -> list[Any]:
    """Return a schedule's policies, its sections being known."""
    if other := _other_kind(document):
        kind, row = other
        raise UserError(f"{str(path)!r} is no schedule but {kind}, which {no_counterpart(row)}")
    for key in document:
        if key not in _SECTIONS:
            raise error(path, str(key), f"has no counterpart{nearest(str(key), _SECTIONS)}")
    policies = document.get("policies")
    if policies is None:
        _check_quantizers(document, path)
        raise UserError(f"{str(path)!r} has no policies, so nothing of it is ever done")
    if not isinstance(policies, list) or not policies:
        raise error(path, "policies", "is not a list of policies")
    return policies


def _check_quantizers(document: Mapping[str, Any], path: str) -> None:
    """Hold a file's quantizers to those of training: post-training ones come without policies."""
    for name, settings in _components(document, "quantizers").items():
        if isinstance(settings, dict) and isinstance(settings.get("class"), str):
            check_class(settings, f"quantizers.{name}", path)


def _unused(document: Mapping[str, Any], policies: list[dict[str, Any]]) -> list[str]:
    """Return a note of each component that no policy names."""
    used = {(kind, str(p[kind]["instance_name"])) for p in policies for kind in _KINDS if kind in p}
    return [
        f"{section}.{name}: no policy uses it"
        for kind, section in (*_KINDS.items(), ("regularizer", "regularizers"))
        for name in _components(document, section)
        if (kind, str(name)) not in used
    ]


def _components(document: Mapping[str, Any], section: str) -> Mapping[Any, Any]:
    found = document.get(section)
    return found if isinstance(found, dict) else {}


def _read_policy(
    found: Converted, document: Mapping[str, Any], policy: object, where: str, path: str
) -> list[dict[str, Any]]:
    """Take one policy into the recipe, but for what it prunes: that is returned as groups."""
    kind, name, settings, policy = _instance(document, policy, where, path)
    component = f"{_KINDS[kind]}.{name}"
    if kind == "pruner":
        when = _when(policy, where, path)
        check_arguments(policy[kind].get("args") or {}, f"{where}.{kind}.args", path, found.notes)
        groups = prune_groups(settings, when, component, path, found.notes)
        return [{**group, "pruner": component} for group in groups]
    if kind == "extension":
        _thin(found, settings, component, path)
        return []
    _last(found, kind, policy, where, path)
    if kind == "quantizer":
        _quantize(found, settings, _start(policy), component, path)
    else:
        rates = learning_rate_keys(settings, _start(policy), component, path, found.notes)
        found.recipe["train"], found.made_of["train"] = rates, component
    return []


def _check_apart(groups: list[dict[str, Any]], path: str) -> None:
    """Hold pruners to different weights: a layer has one target here, from one group."""
    seen: set[str] = set()
    for group in groups:
        if again := sorted(seen & set(group["layers"])):
            twice = f"prune {again[0] + '.weight'!r} twice"
            problem = f"{twice}, which {no_counterpart(common.TWICE)}"
            raise error(path, "policies", problem)
        seen |= set(group["layers"])


def _thin(found: Converted, settings: Mapping[str, Any], where: str, path: str) -> None:
    """Note that thinning takes place in the score and the stored file, not in the network."""
    if settings["class"] not in _THINNING:
        problem = f"{settings['class']!r} {no_counterpart(common.OTHER_EXTENSIONS)}"
        raise error(path, f"{where}.class", problem)
    found.notes.append(f"{where}: pruned pieces keep their place, as zeros that are not stored")


def _last(found: Converted, kind: str, policy: Mapping[str, Any], where: str, path: str) -> None:
    """Hold policies that last, rates and precision, to one of a kind, and note how long."""
    if {"quantizer": "quantize", "lr_scheduler": "train"}[kind] in found.recipe:
        row = common.SEVERAL_QUANTIZERS if kind == "quantizer" else common.OTHER_RATES
        problem = f"is the second policy of a {kind}, which {no_counterpart(row)}"
        raise error(path, where, problem)
    ends, every = policy.get("ending_epoch"), policy.get("frequency", 1)
    if type(ends) is int:
        found.notes.append(
            f"{where}: it lasts as long as training; Distiller's stood still from epoch {ends} on"
        )
    if every != 1:
        found.notes.append(f"{where}: it acts in every epoch, whatever its frequency says")


def _instance(
    document: Mapping[str, Any], policy: object, where: str, path: str
) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Return a policy's kind, its instance's name and settings, and the policy itself."""
    if not isinstance(policy, dict):
        raise error(path, where, "is not a mapping")
    kind = _kind(policy, where, path)
    reference = policy[kind]
    if not isinstance(reference, dict):
        raise error(path, f"{where}.{kind}", "is not a mapping with an instance_name")
    name = str(reference.get("instance_name"))
    instances = {str(key): value for key, value in _components(document, _KINDS[kind]).items()}
    if name not in instances:
        hint = nearest(name, instances)
        raise error(path, f"{where}.{kind}", f"names {name!r}, which {_KINDS[kind]} lacks{hint}")
    settings = instances[name]
    if not isinstance(settings, dict) or not isinstance(settings.get("class"), str):
        raise error(path, f"{_KINDS[kind]}.{name}", "has no class")
    if kind != "pruner" and reference.get("args"):
        raise error(path, f"{where}.{kind}.args", "has no counterpart")
    return kind, name, settings, policy


def _kind(policy: Mapping[str, Any], where: str, path: str) -> str:
    """Return what a policy is of, its keys being known."""
    if "regularizer" in policy:
        row = no_counterpart(common.REGULARIZERS)
        raise error(path, where, f"is a policy of a regularizer, which {row}")
    kinds = [kind for kind in _KINDS if kind in policy]
    if len(kinds) != 1:
        raise error(path, where, f"needs one of {', '.join(_KINDS)}")
    for key in policy:
        if key not in (*kinds, *_EPOCHS):
            raise error(path, f"{where}.{key}", f"is unknown{nearest(str(key), _EPOCHS)}")
    return kinds[0]


def _start(policy: Mapping[str, Any]) -> int:
    epochs = policy.get("epochs")
    if isinstance(epochs, list) and epochs and all(type(e) is int for e in epochs):
        return min(epochs)
    start = policy.get("starting_epoch", 0)
    return start if type(start) is int else 0


def _when(policy: Mapping[str, Any], where: str, path: str) -> tuple[int, int, int]:
    """Return the first epoch, the one after the last, and the frequency of a pruning policy."""
    epochs = policy.get("epochs")
    if epochs is not None:
        if not isinstance(epochs, list) or not all(type(e) is int for e in epochs) or not epochs:
            raise error(path, f"{where}.epochs", "is not a list of whole numbers")
        steps = {b - a for a, b in itertools.pairwise(epochs)} or {1}
        if len(steps) > 1 or min(steps) < 1:
            problem = f"are not evenly spaced, which {no_counterpart(common.EPOCHS)}"
            raise error(path, f"{where}.epochs", problem)
        return epochs[0], epochs[-1] + 1, steps.pop()
    keys = ("starting_epoch", "ending_epoch", "frequency")
    values = [policy.get(key) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if type(value) is not int:
            raise error(path, f"{where}.{key}", f"is {value!r}, not a whole number")
    start, end, frequency = values
    return start, end, frequency  # type: ignore[return-value]


def _prune_section(groups: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """Put groups together; the epochs that all of them share become the section's."""
    once = {group.pop("once") for group in groups}
    if len(once) > 1:
        problem = f"mix gradual and one-shot pruning, which {no_counterpart(common.MIXED)}"
        raise error(path, "policies", problem)
    shared: dict[str, Any] = {}
    for key in ("start_epoch", "end_epoch", "frequency"):
        if len({group[key] for group in groups}) == 1:
            shared[key] = groups[0][key]
            for group in groups:
                del group[key]
    if once.pop():
        for key in ("end_epoch", "frequency"):
            shared.pop(key, None)
            for group in groups:
                group.pop(key, None)
        shared["method"] = "one-shot"
    return {**shared, "groups": groups}


def _quantize(
    found: Converted, settings: Mapping[str, Any], start: int, where: str, path: str
) -> None:
    section = quantize_section(settings, start, where, path, found.notes)
    found.recipe["quantize"], found.made_of["quantize"] = section, where
    for index, pattern in enumerate(settings.get("overrides") or {}):
        found.made_of[f"quantize.overrides[{index}]"] = f"{where}.overrides.{pattern}"
