"""What a report says of a run, read from its directory; what is missing is named, not guessed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization.layers import QuantizedLayer
from micronet.recipe.reader import recipe_from_dict
from micronet.recipe.schema import PruneGroup
from micronet.runs import directory
from micronet.runs.directory import RunDirectory
from micronet.scoring.count import DEFAULT_RULES, Score, score_subject
from micronet.scoring.network.scored_network import from_run
from micronet.scoring.rules.rule_set import RuleSet
from micronet.scoring.rules.tracks import DEFAULT, Track
from micronet.utils.errors import UserError

BINS = 41


@dataclass(frozen=True)
class LayerPicture:
    """What one layer's weights look like: counts over equal bins of [low, high]; codes by value.

    The counts are of weights that are not zero: beside the zeros of a pruned layer none would show.
    """

    layer: str
    low: float
    high: float
    counts: list[int]
    zeros: int
    codes: list[int] | None
    input_range: tuple[float, float] | None


@dataclass(frozen=True)
class RunFacts:
    """One run; the settings are those of training that are not the defaults."""

    name: str
    config: Mapping[str, Any]
    records: list[dict[str, Any]]
    targets: list[float | None]
    score: Score | None = None
    layers: list[LayerPicture] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def short(self) -> str:
        """The run's folder, without those that it lies in."""
        return Path(self.name).resolve().name

    @property
    def criteria(self) -> list[str]:
        """What weights were ranked by, where it was not their magnitude."""
        groups = (self.config["recipe"].get("prune") or {}).get("groups", [])
        found = dict.fromkeys(group.get("criterion", PruneGroup.criterion) for group in groups)
        return [f"pruned by {name}" for name in found if name != PruneGroup.criterion]


def read(path: str, rules: RuleSet = DEFAULT_RULES, track: Track = DEFAULT) -> RunFacts:
    """Read a run directory.

    Args:
        path: of the run.
        rules: the rule set that its score is counted by.
        track: whose baselines divide the score.

    Raises:
        UserError: it is none, or something in it is damaged.
    """
    run = RunDirectory(Path(path))
    config, records = run.config(), run.metrics()
    missing = [] if records else ["no epoch has been finished yet"]
    try:
        checkpoint = directory.find_checkpoint(path)
    except UserError:
        missing.append("there is no checkpoint, so nothing of its layers and its score")
        targets, known = _targets(config, None), settings(config)
        return RunFacts(path, config, records, targets, missing=missing, settings=known)
    loaded = directory.load(checkpoint)
    counted = _score(path, rules, track, missing)
    pictures = [picture(name, layer) for name, layer in layers_of(loaded.model)]
    targets = _targets(config, loaded.model)
    return RunFacts(path, config, records, targets, counted, pictures, missing, settings(config))


def settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the keys of how a run trained whose values are not the defaults, with these."""
    recipe = recipe_from_dict(config["recipe"], str(config["schedule"]))
    sections = {"train": recipe.train, "distill": recipe.distill, "augment": recipe.augment}
    found = []
    for name, section in sections.items():
        for key in dataclasses.fields(section) if section is not None else ():
            value = getattr(section, key.name)
            if value != key.default:
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                found.append((f"{name}.{key.name}", shown))
    return found


def _score(path: str, rules: RuleSet, track: Track, missing: list[str]) -> Score | None:
    try:
        return score_subject(from_run(path, rules), rules, track)
    except UserError as error:
        missing.append(f"it has no score: {error}")
        return None


def layers_of(model: nn.Module) -> list[tuple[str, architectures.Layer]]:
    """Return the convolutions and linear layers of a network, in module order."""
    return list(architectures.layers(model).items())


def _targets(config: Mapping[str, Any], model: nn.Module | None) -> list[float | None]:
    """Return, by epoch, the sparsity that the schedule aims at, of the layers that a log counts."""
    schedule = recipe_from_dict(config["recipe"], str(config["schedule"]))
    section, train = schedule.prune, schedule.train
    if section is None or train is None or model is None:
        return []
    groups = prune.layer_groups(model, section)
    layers = architectures.layers(model)
    numel = {n: layers[n].weight.numel() for n in prune.shown_layers(model, groups)}
    now: dict[str, float] = {}
    found: list[float | None] = []
    for epoch in range(train.epochs):
        for name, group in groups.items():
            if epoch in prune.firing_epochs(section, group):
                try:
                    now[name] = prune.target_sparsity(section, group, epoch)
                except ValueError:
                    return []
        found.append(sum(now.get(n, 0.0) * numel[n] for n in numel) / sum(numel.values()))
    return found


@torch.no_grad()
def picture(name: str, layer: architectures.Layer) -> LayerPicture:
    """Count a layer's weights in bins, and the codes of all of them where it has codes."""
    weight = layer.weight.detach().float().flatten()
    low, high = float(weight.min()), float(weight.max())
    kept = weight[weight != 0]
    counts = torch.histc(kept, BINS, low, high if high > low else low + 1.0)
    codes, span = None, None
    if isinstance(layer, QuantizedLayer):
        codes = _codes(layer) if layer.bits.weight_bits is not None else None
        quantizer = layer.input_quantizer
        span = None if quantizer is None else quantizer.ends()
    zeros = weight.numel() - kept.numel()
    return LayerPicture(name, low, high, counts.long().tolist(), zeros, codes, span)


def _codes(layer: QuantizedLayer) -> list[int]:
    """Count the codes of the weights, by code."""
    levels = layer.weight_levels
    if layer.weight_step is None:
        codes: Tensor = kernels.quantize_per_channel(
            layer.scaled_weight(), levels, layer.weight_mask, layer.bits.weight_scheme
        )[0]
    else:
        # Values are whole numbers over a scale, but for the rounding of the quotient.
        whole = torch.round(layer.quantized_weight().flatten(1) * layer.weight_scale()[:, None])
        codes = whole - layer.weight_zero_point[:, None]
    return torch.bincount(codes.flatten().long(), minlength=levels).tolist()
