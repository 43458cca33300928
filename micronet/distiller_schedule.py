"""Distiller's schedule files, read as they are: one of them becomes a recipe and some notes.

Gradual and one-shot pruning, range-linear quantisation-aware training and learning rates have a
counterpart. What differs is noted, each with its reason; what has none is an error. Nothing of
the file is executed: class names are only compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from micronet.distiller_pruners import prune_groups
from micronet.distiller_rates import learning_rate_keys
from micronet.errors import UserError, nearest
from micronet.layers import REGEX
from micronet.places import YamlPath, place

_KINDS = {
    "pruner": "pruners",
    "quantizer": "quantizers",
    "lr_scheduler": "lr_schedulers",
    "extension": "extensions",
}
_SECTIONS = ("version", *_KINDS.values(), "policies")
_EPOCHS = ("starting_epoch", "ending_epoch", "frequency", "epochs")
# Extensions that take pruned filters or channels out of the network.
_THINNING = ("FilterRemover", "ChannelRemover", "StructureRemover")
_QUANTISER = "QuantAwareTrainRangeLinearQuantizer"
_QUANTISER_KEYS = (
    "class",
    "bits_activations",
    "bits_weights",
    "bits_bias",
    "overrides",
    "mode",
    "ema_decay",
    "per_channel_wts",
    "quantize_inputs",
    "num_bits_inputs",
)


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
    """Whether a schedule's plain data is in Distiller's form."""
    return isinstance(document, dict) and "policies" in document


def convert(document: Mapping[str, Any], path: str) -> Converted:
    """Turn a Distiller schedule into a recipe.

    Args:
        document: the file's plain data.
        path: of the file, for messages.

    Raises:
        UserError: a part of it is malformed, or has no counterpart.
    """
    for key in document:
        if key not in _SECTIONS:
            raise _error(path, str(key), f"has no counterpart{nearest(str(key), _SECTIONS)}")
    policies = document["policies"]
    if not isinstance(policies, list) or not policies:
        raise _error(path, "policies", "is not a list of policies")
    found, groups = Converted(), []
    for index, policy in enumerate(policies):
        groups += _read_policy(found, document, policy, f"policies[{index}]", path)
    if groups:
        _check_apart(groups, path)
        for index, group in enumerate(groups):
            found.made_of[f"prune.groups[{index}]"] = group.pop("pruner")
        found.recipe["prune"], found.made_of["prune"] = _prune_section(groups, path), "policies"
    return found


def _read_policy(
    found: Converted, document: Mapping[str, Any], policy: object, where: str, path: str
) -> list[dict[str, Any]]:
    """Take one policy into the recipe, but for what it prunes: that is returned as groups."""
    kind, name, settings, policy = _instance(document, policy, where, path)
    component = f"{_KINDS[kind]}.{name}"
    if kind == "pruner":
        when = _when(policy, where, path)
        groups = prune_groups(settings, when, component, path, found.notes)
        return [{**group, "pruner": component} for group in groups]
    if kind == "extension":
        _thin(found, settings, component, path)
        return []
    _last(found, kind, policy, where, path)
    if kind == "quantizer":
        _quantise(found, settings, _start(policy), component, path)
    else:
        rates = learning_rate_keys(settings, _start(policy), component, path, found.notes)
        found.recipe["train"], found.made_of["train"] = rates, component
    return []


def _check_apart(groups: list[dict[str, Any]], path: str) -> None:
    """Hold pruners to different weights: a layer has one target here, from one group."""
    seen: set[str] = set()
    for group in groups:
        if again := sorted(seen & set(group["layers"])):
            problem = f"prune {again[0] + '.weight'!r} twice, which has no counterpart"
            raise _error(path, "policies", problem)
        seen |= set(group["layers"])


def _thin(found: Converted, settings: Mapping[str, Any], where: str, path: str) -> None:
    """Note that thinning takes place in the score and the stored file, not in the network."""
    if settings["class"] not in _THINNING:
        raise _error(path, f"{where}.class", f"{settings['class']!r} has no counterpart")
    found.notes.append(f"{where}: pruned pieces keep their place, as zeros that are not stored")


def _last(found: Converted, kind: str, policy: Mapping[str, Any], where: str, path: str) -> None:
    """Hold policies that last, rates and precision, to one of a kind, and note how long."""
    if {"quantizer": "quantize", "lr_scheduler": "train"}[kind] in found.recipe:
        raise _error(path, where, f"is the second policy of a {kind}, which has no counterpart")
    ends, every = policy.get("ending_epoch"), policy.get("frequency", 1)
    if type(ends) is int:
        found.notes.append(
            f"{where}: it lasts as long as training; Distiller's stood still from epoch {ends} on"
        )
    if every != 1:
        found.notes.append(f"{where}: it acts in every epoch, whatever its frequency says")


def _error(path: str, where: str, problem: str) -> UserError:
    return UserError(f"{place(path, where)}: {where} {problem}")


def _instance(
    document: Mapping[str, Any], policy: object, where: str, path: str
) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Return a policy's kind, its instance's name and settings, and the policy itself."""
    if not isinstance(policy, dict):
        raise _error(path, where, "is not a mapping")
    kind = _kind(policy, where, path)
    reference = policy[kind]
    name = str(reference.get("instance_name")) if isinstance(reference, dict) else "nothing"
    instances = document.get(_KINDS[kind])
    if not isinstance(instances, dict) or name not in instances:
        hint = nearest(str(name), map(str, instances) if isinstance(instances, dict) else ())
        raise _error(path, f"{where}.{kind}", f"names {name!r}, which {_KINDS[kind]} lacks{hint}")
    settings = instances[name]
    if not isinstance(settings, dict) or not isinstance(settings.get("class"), str):
        raise _error(path, f"{_KINDS[kind]}.{name}", "has no class")
    if isinstance(reference, dict) and reference.get("args"):
        raise _error(path, f"{where}.{kind}.args", "has no counterpart")
    return kind, name, settings, policy


def _kind(policy: Mapping[str, Any], where: str, path: str) -> str:
    """Return what a policy is of, its keys being known."""
    if "regularizer" in policy:
        raise _error(path, where, "is a policy of a regularizer, which has no counterpart")
    kinds = [kind for kind in _KINDS if kind in policy]
    if len(kinds) != 1:
        raise _error(path, where, f"needs one of {', '.join(_KINDS)}")
    for key in policy:
        if key not in (*kinds, *_EPOCHS):
            raise _error(path, f"{where}.{key}", f"is unknown{nearest(str(key), _EPOCHS)}")
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
            raise _error(path, f"{where}.epochs", "is not a list of whole numbers")
        steps = {b - a for a, b in itertools.pairwise(epochs)} or {1}
        if len(steps) > 1 or min(steps) < 1:
            raise _error(path, f"{where}.epochs", "are not evenly spaced, which has no counterpart")
        return epochs[0], epochs[-1] + 1, steps.pop()
    keys = ("starting_epoch", "ending_epoch", "frequency")
    values = [policy.get(key) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if type(value) is not int:
            raise _error(path, f"{where}.{key}", f"is {value!r}, not a whole number")
    start, end, frequency = values
    return start, end, frequency  # type: ignore[return-value]


def _prune_section(groups: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """Put groups together; the epochs that all of them share become the section's."""
    once = {group.pop("once") for group in groups}
    if len(once) > 1:
        raise _error(path, "policies", "mix gradual and one-shot pruning: make two stages of them")
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


def _quantise(
    found: Converted, settings: Mapping[str, Any], start: int, where: str, path: str
) -> None:
    if settings["class"] != _QUANTISER:
        problem = f"{settings['class']!r} has no counterpart; {_QUANTISER} has"
        raise _error(path, f"{where}.class", problem)
    for key in settings:
        if key not in _QUANTISER_KEYS:
            hint = nearest(str(key), _QUANTISER_KEYS)
            raise _error(path, f"{where}.{key}", f"is unknown{hint}")
    decay = settings.get("ema_decay", 0.999)
    weights, activations = settings.get("bits_weights", 32), settings.get("bits_activations", 32)
    section: dict[str, Any] = {
        "weights": _bits(weights),
        "activations": _bits(activations, decay),
        "start_epoch": start,
    }
    overrides = settings.get("overrides") or {}
    if rows := _overrides(overrides, decay, f"{where}.overrides", path):
        section["overrides"] = rows
    found.recipe["quantize"], found.made_of["quantize"] = section, where
    for index, pattern in enumerate(overrides):
        found.made_of[f"quantize.overrides[{index}]"] = f"{where}.overrides.{pattern}"
    found.notes += _quantiser_notes(settings)


def _overrides(overrides: object, decay: Any, where: str, path: str) -> list[dict[str, Any]]:
    if not isinstance(overrides, dict):
        raise _error(path, where, "is not a mapping")
    rows = []
    for pattern, override in overrides.items():
        if not isinstance(override, dict):
            raise _error(path, f"{where}.{pattern}", "is not a mapping")
        row: dict[str, Any] = {"layers": [_pattern(str(pattern))]}
        if "bits_weights" in override:
            row["weights"] = _bits(override["bits_weights"])
        if "bits_activations" in override:
            row["activations"] = _bits(override["bits_activations"], decay)
        rows.append(row)
    return rows


def _quantiser_notes(settings: Mapping[str, Any]) -> list[str]:
    notes = [
        "activations: the inputs of convolutions and linear layers are quantised; Distiller "
        "quantised the outputs of nn.ReLU alone, which EfficientNet has none of",
        "biases stay in float, whatever bits_bias says",
    ]
    if settings.get("mode", "SYMMETRIC") != "ASYMMETRIC_UNSIGNED":
        notes.append("mode: codes are asymmetric and unsigned, with zero exactly on a code")
    if not settings.get("per_channel_wts"):
        notes.append("per_channel_wts: weights always have a range for each output channel")
    return notes


def _bits(bits: object, decay: float | None = None) -> dict[str, Any] | None:
    if bits is None or bits == 32:
        return None
    return {"bits": bits} | ({} if decay is None else {"decay": decay})


def _pattern(expression: str) -> str:
    """Return the pattern of one of Distiller's overrides: a name, or a regular expression."""
    name = expression.replace("module.", "", 1)
    return name if name.replace("_", "").replace(".", "").isalnum() else REGEX + name
