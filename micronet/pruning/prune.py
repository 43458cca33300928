"""Which weights of a network a schedule prunes, and how many of them are zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
from torch import nn

import micronet_kernels as kernels
from micronet.models import architectures, shared_layers
from micronet.pruning import patterns
from micronet.pruning.curvature import Curvature
from micronet.pruning.masks import (
    Masks,
    Ranked,
    choose_together,
    magnitude_threshold,
    masks_together,
)
from micronet.pruning.sparsity_schedule import (
    final_sparsity,
    firing_epochs,
    last_firing_epoch,
    pruned_of,
    pruned_weights,
    target_sparsity,
)
from micronet.quantization.plain_weights import check_weight
from micronet.recipe.layer_patterns import assign_layers
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError

__all__ = [
    "Curvature",
    "Masks",
    "Ranked",
    "Zeros",
    "choose_together",
    "final_sparsities",
    "final_sparsity",
    "firing_epochs",
    "last_firing_epoch",
    "layer_groups",
    "magnitude_threshold",
    "masks_together",
    "pruned_of",
    "pruned_weights",
    "shown_layers",
    "shown_sparsity",
    "sparsity",
    "target_sparsity",
    "zeros",
]


# Types of weights that masks are chosen of.
_MASKED = (torch.float32, torch.float16, torch.bfloat16)


def layer_groups(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, PruneGroup]:
    """Return the pruning group of every weight that is in one, by the layer that owns it.

    Raises:
        UserError: a pattern names no layer of the model, a layer has no such structure or no
            weight of its own, two groups want one weight, or the schedule prunes no weight.
    """
    by_key = {f"prune.groups[{i}].layers": group for i, group in enumerate(section.groups)}
    names_of = {key: group.layers for key, group in by_key.items()}
    names = shared_layers.weight_names(model)
    assigned = assign_layers(names, names_of, path, lambda key: _treatment(section, by_key[key]))
    groups = {name: by_key[key] for name, key in assigned.items()}
    if groups:
        shared_layers.check_memory(model, f"{line_of(path, 'prune.groups')}: ")
    for name, group in groups.items():
        _check_group(model, name, group, assigned[name], path)
    shapes = {name: _shape(architectures.layers(model)[name]) for name in groups}
    if not any(_prunes(shapes[name], group) for name, group in groups.items()):
        raise UserError(
            f"{line_of(path, 'prune.groups')}: prune.groups prunes no weight of this network"
        )
    return groups


def _treatment(section: PruneSection, group: PruneGroup) -> object:
    """Return what a group does to a weight, whose equal it is to another's that does the same."""
    together = section.groups.index(group) if group.scope == "group" else None
    return dataclasses.replace(group, layers=()), together


def _check_group(model: nn.Module, name: str, group: PruneGroup, key: str, path: str) -> None:
    """Hold a layer to having a weight that a group can prune."""
    layer = architectures.layers(model)[name]
    check_weight(name, layer, "pruned", f"{line_of(path, key)}: ", f"; leave it out of {key}")
    if layer.weight.dtype not in _MASKED:
        raise UserError(
            f"{line_of(path, key)}: layer {name!r} cannot be pruned: its weights are "
            f"{str(layer.weight.dtype).removeprefix('torch.')}, but masks are chosen of float32, "
            f"float16 and bfloat16; leave it out of {key}"
        )
    key = key.replace(".layers", ".structure")
    if reason := patterns.problem(_shape(layer), group.structure):
        raise UserError(f"{line_of(path, key)}: {key} {group.structure!r}: layer {name!r} {reason}")
    shared_layers.check_pruned(model, name, group.structure, f"{line_of(path, key)}: ")


def _shape(layer: architectures.Layer) -> tuple[int, ...]:
    return patterns.outputs_first_shape(layer)


def _prunes(shape: tuple[int, ...], group: PruneGroup) -> bool:
    if group.threshold is not None or group.sensitivity is not None:
        return True
    return group.scope == "group" or pruned_of(shape, group, final_sparsity(group)) > 0


def final_sparsities(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, float]:
    """Return for every layer that is pruned a sparsity whose ``pruned_weights`` are its zeros.

    Layers that hold one weight have one sparsity.

    Raises:
        UserError: as ``layer_groups``, or the trained weights decide how many zeros a layer has.
    """
    found = {}
    layers, holders = architectures.layers(model), shared_layers.holders(model)
    for name, group in layer_groups(model, section, path).items():
        if group.scope == "group" or group.threshold or group.sensitivity:
            raise UserError(
                f"{path}: how many weights of {name!r} are pruned depends on the trained weights: "
                "score a run instead"
            )
        final = final_sparsity(group)
        if group.structure != "element":
            # The half is safe from rounding; see pruned_weights.
            pruned = pruned_of(_shape(layers[name]), group, final)
            final = (pruned + 0.5) / layers[name].weight.numel()
        found.update(dict.fromkeys(holders[name], final))
    return found


def sparsity(model: nn.Module, names: Iterable[str] | None = None) -> float:
    """Return the share of exact zeros among the weights of the named layers (all by default).

    A weight that several of them hold counts once.
    """
    layers, owners = architectures.layers(model), shared_layers.owners(model)
    owned = dict.fromkeys(owners[name] for name in (layers if names is None else names))
    chosen = [layers[name].weight.detach() for name in owned]
    total = sum(weight.numel() for weight in chosen)
    nonzero = sum(int(kernels.count_nonzero(weight)) for weight in chosen)
    return 1.0 - nonzero / total if total else 0.0


class Zeros(NamedTuple):
    """How many of ``total`` weights are exactly zero."""

    zeros: int
    total: int


def zeros(model: nn.Module, names: Iterable[str]) -> dict[str, Zeros]:
    """Return the exact zeros among the weights of each of some layers."""
    layers = architectures.layers(model)
    weights = {name: layers[name].weight.detach() for name in names}
    return {
        name: Zeros(weight.numel() - int(kernels.count_nonzero(weight)), weight.numel())
        for name, weight in weights.items()
    }


def shown_sparsity(model: nn.Module, pruned: Collection[str] = ()) -> float:
    """Return the share of exact zeros among the weights of ``shown_layers``."""
    return sparsity(model, shown_layers(model, pruned))


def shown_layers(model: nn.Module, pruned: Collection[str]) -> list[str]:
    """Return the layers whose zeros a run's log counts: all convolutions, and what is pruned."""
    layers = architectures.layers(model)
    stored = shared_layers.holders(model)
    return [n for n in stored if n in pruned or not isinstance(layers[n], nn.Linear)]
