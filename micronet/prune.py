"""Pruning targets over the epochs, and the masks that hold them.

Gradual pruning follows Zhu & Gupta 2017, "To prune, or not to prune": the target rises on a cubic
from the initial to the final sparsity. Masks are bits, chosen by magnitude, exactly as many as the
target says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet import models, structures
from micronet.config import PruneGroup, PruneSection
from micronet.errors import UserError
from micronet.layers import match_layers
from micronet.places import place


def firing_epochs(section: PruneSection, group: PruneGroup | None = None) -> range:
    """Return the epochs at whose beginning a group's masks are chosen anew.

    Without a group, those of a group that has no epochs of its own.
    """
    start, end, frequency = (
        getattr(section, name)
        if group is None or getattr(group, name) is None
        else getattr(group, name)
        for name in ("start_epoch", "end_epoch", "frequency")
    )
    return range(start, start + 1 if end is None else end, frequency)


def last_firing_epoch(section: PruneSection) -> int:
    """Return the epoch from which on every group is at its target."""
    return max(firing_epochs(section, group)[-1] for group in section.groups)


def final_sparsity(group: PruneGroup) -> float:
    """Return the share of weights that a group's schedule ends at.

    Raises:
        ValueError: the group prunes by a threshold, whose share the weights decide.
    """
    if group.final_sparsity is not None:
        return group.final_sparsity
    if ":" not in group.structure:
        raise ValueError("a threshold has no sparsity of its own")
    kept, of = map(int, group.structure.split(":"))
    return 1 - kept / of


def target_sparsity(section: PruneSection, group: PruneGroup, epoch: int) -> float:
    """Return the cubic's sparsity at a firing epoch; the last one is exactly the final sparsity.

    Source: Zhu & Gupta 2017, equation 1, with the span that the firing epochs really cover.

    Raises:
        ValueError: the group prunes by a threshold, whose share the weights decide.
    """
    firing, final = firing_epochs(section, group), final_sparsity(group)
    span = firing[-1] - firing[0]
    if span == 0:
        return final
    left = 1.0 - (epoch - firing[0]) / span
    return final + (min(group.initial_sparsity, final) - final) * left**3


def layer_groups(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, PruneGroup]:
    """Return the pruning group of every layer that is in one.

    Raises:
        UserError: a pattern names no layer of the model, a layer has no such structure, or the
            schedule prunes no weight.
    """
    layers = models.layers(model)
    by_key = {f"prune.groups[{i}].layers": group for i, group in enumerate(section.groups)}
    assigned = match_layers(layers, {key: group.layers for key, group in by_key.items()}, path)
    groups = {name: by_key[assigned[name]] for name in layers if name in assigned}
    for name, group in groups.items():
        if reason := structures.problem(tuple(layers[name].weight.shape), group.structure):
            key = assigned[name].replace(".layers", ".structure")
            raise UserError(
                f"{place(path, key)}: {key} {group.structure!r}: layer {name!r} {reason}"
            )
    if not any(_prunes(tuple(layers[n].weight.shape), g) for n, g in groups.items()):
        raise UserError(
            f"{place(path, 'prune.groups')}: prune.groups prunes no weight of this network"
        )
    return groups


def _prunes(shape: tuple[int, ...], group: PruneGroup) -> bool:
    if group.threshold is not None or group.sensitivity is not None:
        return True
    return group.scope == "group" or pruned_of(shape, group, final_sparsity(group)) > 0


def final_sparsities(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, float]:
    """Return for every layer that is pruned a sparsity whose ``pruned_weights`` are its zeros.

    Raises:
        UserError: as ``layer_groups``, or the trained weights decide how many zeros a layer has.
    """
    found = {}
    layers = models.layers(model)
    for name, group in layer_groups(model, section, path).items():
        if group.scope == "group" or group.threshold or group.sensitivity:
            raise UserError(
                f"{path}: how many weights of {name!r} are pruned depends on the trained weights: "
                "score a run instead"
            )
        final = final_sparsity(group)
        if group.structure != "element":
            shape = tuple(layers[name].weight.shape)
            # The half is safe from rounding; see pruned_weights.
            final = (pruned_of(shape, group, final) + 0.5) / layers[name].weight.numel()
        found[name] = final
    return found


def pruned_weights(numel: int, sparsity: float) -> int:
    """Return how many of ``numel`` weights a sparsity prunes: the truncated float product.

    It is the 2019 system's rule, and the one that its published counts follow.
    """
    return int(sparsity * numel)


def pruned_of(shape: tuple[int, ...], group: PruneGroup, sparsity: float) -> int:
    """Return how many weights of ``shape`` a group's pieces prune at a sparsity."""
    numel = torch.Size(shape).numel()
    if group.structure == "element":
        return pruned_weights(numel, sparsity)
    if ":" in group.structure:
        of = int(group.structure.split(":")[1])
        return numel // of * int(sparsity * of)
    # Blocks at the edges hold fewer weights: only their number is known before training.
    count = structures.pieces(shape, group.structure)
    return numel * pruned_weights(count, sparsity) // count


class Masks:
    """The bit mask of every pruned layer: 1 keeps a weight, 0 prunes it.

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
        layers = models.layers(model)
        together: dict[int, dict[str, Tensor]] = {}
        for name, group in groups.items():
            if epoch not in firing_epochs(section, group):
                continue
            weight = layers[name].weight.detach()
            if group.scope == "group":
                together.setdefault(section.groups.index(group), {})[name] = weight
            else:
                self._set(name, self._choose(name, weight, section, group, epoch))
        for index, weights in together.items():
            group = section.groups[index]
            chosen = choose_together(weights, group, target_sparsity(section, group, epoch))
            for name, bits in chosen.items():
                self._set(name, self._grown(name, bits))
        self.apply_(model)

    def _choose(
        self, name: str, weight: Tensor, section: PruneSection, group: PruneGroup, epoch: int
    ) -> Tensor:
        """Return the bits of one layer's mask; what an earlier stage pruned stays pruned."""
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
            return self._grown(name, structures.every_group(weight, of, int(target * of)))
        return self._grown(name, choose_together({name: weight}, group, target)[name])

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
        layers = models.layers(model)
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
        layers = models.layers(model)
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


def choose_together(
    weights: Mapping[str, Tensor], group: PruneGroup, sparsity: float
) -> dict[str, Tensor]:
    """Return the bits of the masks that prune the lowest pieces of all ``weights`` together.

    Args:
        weights: by layer.
        group: gives the pieces' structure.
        sparsity: share of the pieces that is pruned.
    """
    scores = {name: structures.scores(w, group.structure).float() for name, w in weights.items()}
    every = torch.cat(list(scores.values()))
    count = pruned_weights(every.numel(), sparsity)
    if group.structure == "element":
        # What is zero already is among the smallest, so that masks only ever grow.
        count = max(count, every.numel() - int(kernels.count_nonzero(every)))
    keep = kernels.unpack_bits(kernels.smallest_magnitude_mask(every, count), every.numel())
    parts = keep.split([len(score) for score in scores.values()])
    return {
        name: structures.spread(part, tuple(weight.shape), group.structure)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def sparsity(model: nn.Module, names: Iterable[str] | None = None) -> float:
    """Return the share of exact zeros among the weights of the named layers (all by default)."""
    layers = models.layers(model)
    chosen = [layers[name].weight.detach() for name in (layers if names is None else names)]
    total = sum(weight.numel() for weight in chosen)
    nonzero = sum(int(kernels.count_nonzero(weight)) for weight in chosen)
    return 1.0 - nonzero / total if total else 0.0


def shown_sparsity(model: nn.Module, pruned: Collection[str] = ()) -> float:
    """Return the share of exact zeros among the weights of ``shown_layers``."""
    return sparsity(model, shown_layers(model, pruned))


def shown_layers(model: nn.Module, pruned: Collection[str]) -> list[str]:
    """Return the layers whose zeros a run's log counts: all convolutions, and what is pruned."""
    layers = models.layers(model)
    return [n for n, m in layers.items() if n in pruned or not isinstance(m, nn.Linear)]
