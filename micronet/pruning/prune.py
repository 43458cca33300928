"""Which weights of a network a schedule prunes, and the masks that hold its targets.

Masks are bits, chosen by magnitude, exactly as many as the target says; see ``prune_targets``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures, shared_layers
from micronet.pruning import patterns
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
from micronet.recipe.reader import PruneGroup, PruneSection
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError

__all__ = [
    "Masks",
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


class Masks:
    """The bit mask of every pruned weight, by the layer that owns it: 1 keeps, 0 prunes.

    Bits follow the weight's logical order, eight to a byte, low bit first.
    """

    def __init__(self, bits: Mapping[str, Tensor] | None = None) -> None:
        self.bits: dict[str, Tensor] = dict(bits or {})
        # The pruned positions as booleans, rebuilt when the bits change: filling is one pass.
        self._pruned: dict[str, Tensor] = {}

    def update(
        self, model: nn.Module, section: PruneSection, groups: Mapping[str, PruneGroup], epoch: int
    ) -> None:
        """Choose the masks of the groups that fire in an epoch, by current weights; apply them."""
        layers = architectures.layers(model)
        together: dict[int, dict[str, architectures.Layer]] = {}
        for name, group in groups.items():
            if epoch not in firing_epochs(section, group):
                continue
            if group.scope == "group":
                together.setdefault(section.groups.index(group), {})[name] = layers[name]
            else:
                self._set(name, self._choose(name, layers[name], section, group, epoch))
        for index, chosen in together.items():
            group = section.groups[index]
            bits = masks_together(chosen, group, target_sparsity(section, group, epoch))
            for name in chosen:
                self._set(name, self._grown(name, bits[name]))
        self.apply_(model)

    def _choose(
        self,
        name: str,
        layer: architectures.Layer,
        section: PruneSection,
        group: PruneGroup,
        epoch: int,
    ) -> Tensor:
        """Return the bits of one layer's mask; what an earlier stage pruned stays pruned."""
        weight = layer.weight.detach()
        earlier = self.pruned(name, weight.numel())
        if group.threshold is not None or group.sensitivity is not None:
            count = int((weight.abs() <= magnitude_threshold(weight, group)).sum())
            return kernels.smallest_magnitude_mask(weight, max(count, earlier))
        target = target_sparsity(section, group, epoch)
        if group.structure == "element":
            count = pruned_weights(weight.numel(), target)
            return kernels.smallest_magnitude_mask(weight, max(count, earlier))
        if ":" in group.structure:
            of = int(group.structure.split(":")[1])
            rows = patterns.outputs_first(weight, layer)
            bits = patterns.every_group(rows, of, int(target * of))
            return self._grown(name, patterns.stored_bits(bits, layer))
        return self._grown(name, masks_together({name: layer}, group, target)[name])

    def _grown(self, name: str, bits: Tensor) -> Tensor:
        """Prune what an earlier mask prunes too, whose pieces may have been of another shape."""
        return bits & self.bits[name].to(bits.device) if name in self.bits else bits

    def _set(self, name: str, bits: Tensor) -> None:
        self.bits[name] = bits
        self._pruned.pop(name, None)

    def pruned(self, name: str, numel: int) -> int:
        """Return how many of a layer's ``numel`` weights are pruned."""
        if name not in self.bits:
            return 0
        return numel - int(kernels.unpack_bits(self.bits[name], numel).sum())

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set every pruned weight to zero, in place."""
        layers = architectures.layers(model)
        for name in self.bits:
            self.fill_(name, layers[name].weight)

    def fill_(self, name: str, weight: Tensor) -> None:
        """Set what layer ``name`` prunes of a tensor shaped as its weight to zero, in place."""
        if name not in self._pruned:
            keep = kernels.unpack_bits(self.bits[name], weight.numel())
            self._pruned[name] = ~keep.view(weight.shape)
        weight.masked_fill_(self._pruned[name], 0.0)

    def check(self, model: nn.Module) -> None:
        """Hold the masks to the model: every name a layer, every mask of its weight's size.

        Raises:
            UserError: they belong to another network.
        """
        layers = architectures.layers(model)
        for name, bits in self.bits.items():
            if name not in layers:
                raise UserError(f"mask {name!r} belongs to no layer of this network")
            numel = layers[name].weight.numel()
            if bits.dtype != torch.uint8 or bits.shape != ((numel + 7) // 8,):
                raise UserError(f"mask {name!r} has {bits.numel()} bytes for {numel} weights")


def magnitude_threshold(weight: Tensor, group: PruneGroup) -> float:
    """Return the magnitude up to which a group prunes a weight.

    A sensitivity counts in standard deviations of the layer's weights (Han et al. 2015).
    """
    if group.threshold is not None:
        return group.threshold
    return float(group.sensitivity or 0.0) * float(weight.double().std())


def masks_together(
    layers: Mapping[str, architectures.Layer], group: PruneGroup, sparsity: float
) -> dict[str, Tensor]:
    """Return the bits of the masks that prune the lowest pieces of all ``layers`` together.

    Args:
        layers: by name.
        group: gives the pieces' structure.
        sparsity: share of the pieces that is pruned.
    """
    rows = {n: patterns.outputs_first(m.weight.detach(), m) for n, m in layers.items()}
    chosen = choose_together(rows, group, sparsity)
    return {name: patterns.stored_bits(bits, layers[name]) for name, bits in chosen.items()}


def choose_together(
    weights: Mapping[str, Tensor], group: PruneGroup, sparsity: float
) -> dict[str, Tensor]:
    """Return the bits of the masks that prune the lowest pieces of all ``weights`` together.

    Args:
        weights: by layer, outputs first.
        group: gives the pieces' structure.
        sparsity: share of the pieces that is pruned.
    """
    scores = {name: patterns.scores(w, group.structure).float() for name, w in weights.items()}
    every = torch.cat(list(scores.values()))
    count = pruned_weights(every.numel(), sparsity)
    if group.structure == "element":
        # What is zero already is among the smallest, so that masks only ever grow.
        count = max(count, every.numel() - int(kernels.count_nonzero(every)))
    keep = kernels.unpack_bits(kernels.smallest_magnitude_mask(every, count), every.numel())
    parts = keep.split([len(score) for score in scores.values()])
    return {
        name: patterns.spread(part, tuple(weight.shape), group.structure)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


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
