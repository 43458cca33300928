"""The masks that hold the targets of a schedule.

Masks are bits, exactly as many as the target says (``sparsity_schedule``), chosen by magnitude or
by what the loss would lose (``curvature``). What is pruned stays pruned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures, shared_layers
from micronet.pruning import patterns
from micronet.pruning.curvature import Curvature
from micronet.pruning.sparsity_schedule import firing_epochs, pruned_weights, target_sparsity
from micronet.recipe.schema import SECOND_ORDER, PruneGroup, PruneSection
from micronet.utils.errors import UserError

# Under this name a layer carries the bits of its weight's mask, see ``Masks.attach``.
_CARRIED = "_micronet_mask"


class Ranked(NamedTuple):
    """A layer, and what its weights are ranked by: themselves, or what the loss would lose."""

    layer: architectures.Layer
    values: Tensor


class Masks:
    """The bit mask of every pruned weight, by the layer that owns it: 1 keeps, 0 prunes.

    Bits follow the weight's logical order, eight to a byte, low bit first.
    """

    def __init__(self, bits: Mapping[str, Tensor] | None = None) -> None:
        self.bits: dict[str, Tensor] = dict(bits or {})
        # The pruned positions as booleans, rebuilt when the bits change: filling is one pass.
        self._pruned: dict[str, Tensor] = {}

    @classmethod
    def of(cls, model: nn.Module) -> Masks:
        """Return the masks that the layers of a network carry."""
        owners, layers = shared_layers.owners(model), architectures.layers(model)
        masks = cls()
        for name, layer in layers.items():
            if _CARRIED in vars(layer):
                # Of layers that hold one weight, a part of the network may have pruned more.
                bits = vars(layer)[_CARRIED]
                masks.bits[owners[name]] = masks._grown(owners[name], bits)
        return masks

    def attach(self, model: nn.Module) -> None:
        """Let each layer carry the bits of its weight's mask, and no others.

        So a copy of the network has them, one that was pickled, what the network is a part of and
        each part of it; a layer that is put in another's place has none.
        """
        owners = shared_layers.owners(model)
        for name, layer in architectures.layers(model).items():
            vars(layer).pop(_CARRIED, None)
            if owners[name] in self.bits:
                setattr(layer, _CARRIED, self.bits[owners[name]])

    def update(
        self,
        model: nn.Module,
        section: PruneSection,
        groups: Mapping[str, PruneGroup],
        epoch: int,
        curvature: Curvature | None = None,
    ) -> None:
        """Choose the masks of the groups that fire in an epoch, by current weights; apply them.

        Args:
            model: the network.
            section: of the recipe.
            groups: by the layer that owns each weight.
            epoch: from 0.
            curvature: of the loss, for groups whose criterion needs it.

        Raises:
            UserError: a weight of such a group is NaN, or had no gradient that it needs.
        """
        layers = architectures.layers(model)
        together: dict[int, dict[str, Ranked]] = {}
        for name, group in groups.items():
            if epoch not in firing_epochs(section, group):
                continue
            ranked = self._ranked(name, layers[name], group, curvature or Curvature())
            if group.scope == "group":
                together.setdefault(section.groups.index(group), {})[name] = ranked
            else:
                self._set(name, self._choose(name, ranked, section, group, epoch))
        for index, chosen in together.items():
            group = section.groups[index]
            bits = masks_together(chosen, group, target_sparsity(section, group, epoch))
            for name in chosen:
                self._set(name, self._grown(name, bits[name]))
        self.apply_(model)
        self.attach(model)

    def _ranked(
        self, name: str, layer: architectures.Layer, group: PruneGroup, curvature: Curvature
    ) -> Ranked:
        """Return a layer with what its weights are ranked by."""
        weight = layer.weight.detach()
        if bool(weight.isnan().any()):
            raise UserError(f"layer {name!r} cannot be pruned: its weights hold NaN")
        if group.criterion == SECOND_ORDER:
            pruned = self._pruned_of(name, weight) if name in self.bits else None
            weight = curvature.loss_increase(name, weight, pruned)
        return Ranked(layer, weight)

    def _choose(
        self, name: str, ranked: Ranked, section: PruneSection, group: PruneGroup, epoch: int
    ) -> Tensor:
        """Return the bits of one layer's mask; what an earlier stage pruned stays pruned."""
        layer, values = ranked
        earlier = self.pruned(name, values.numel())
        if group.threshold is not None or group.sensitivity is not None:
            count = int((values.abs() <= magnitude_threshold(values, group)).sum())
            return kernels.smallest_magnitude_mask(values, max(count, earlier))
        target = target_sparsity(section, group, epoch)
        if group.structure == "element":
            count = pruned_weights(values.numel(), target)
            return kernels.smallest_magnitude_mask(values, max(count, earlier))
        if ":" in group.structure:
            of = int(group.structure.split(":")[1])
            rows = patterns.outputs_first(values, layer)
            bits = patterns.every_group(rows, of, int(target * of))
            return self._grown(name, patterns.stored_bits(bits, layer))
        return self._grown(name, masks_together({name: ranked}, group, target)[name])

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
        """Set every pruned weight to zero, in place.

        Raises:
            UserError: the weight of a layer is computed by now, so that its zeros would not last.
        """
        layers = architectures.layers(model)
        for name in self.bits:
            if not isinstance(layers[name].weight, nn.Parameter):
                raise UserError(
                    f"layer {name!r} was pruned, but since then its weight is computed from other "
                    "parameters, which would not stay zero"
                )
            self.fill_(name, layers[name].weight)

    def fill_(self, name: str, weight: Tensor) -> None:
        """Set what layer ``name`` prunes of a tensor shaped as its weight to zero, in place."""
        weight.masked_fill_(self._pruned_of(name, weight), 0.0)

    def _pruned_of(self, name: str, weight: Tensor) -> Tensor:
        """Return what layer ``name`` prunes, bool, shaped as its weight and on its device."""
        pruned = self._pruned.get(name)
        if pruned is None or pruned.device != weight.device:
            keep = kernels.unpack_bits(self.bits[name].to(weight.device), weight.numel())
            self._pruned[name] = pruned = ~keep.view(weight.shape)
        return pruned

    def check(self, model: nn.Module) -> None:
        """Hold the masks to the model: every name a layer, every mask of its weight's size.

        Raises:
            UserError: they belong to another network.
        """
        layers = architectures.layers(model)
        for name, bits in self.bits.items():
            if name not in layers:
                raise UserError(f"mask {name!r} belongs to no layer of this network")
            if not isinstance(bits, Tensor):
                raise UserError(f"mask {name!r} is no tensor, but {type(bits).__name__}")
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
    layers: Mapping[str, Ranked], group: PruneGroup, sparsity: float
) -> dict[str, Tensor]:
    """Return the bits of the masks that prune the lowest pieces of all ``layers`` together.

    Args:
        layers: by name.
        group: gives the pieces' structure.
        sparsity: share of the pieces that is pruned.
    """
    rows = {n: patterns.outputs_first(ranked.values, ranked.layer) for n, ranked in layers.items()}
    chosen = choose_together(rows, group, sparsity)
    return {name: patterns.stored_bits(bits, layers[name].layer) for name, bits in chosen.items()}


def choose_together(
    weights: Mapping[str, Tensor], group: PruneGroup, sparsity: float
) -> dict[str, Tensor]:
    """Return the bits of the masks that prune the lowest pieces of all ``weights`` together.

    Args:
        weights: or what stands for them in the ranking, by layer, outputs first.
        group: gives the pieces' structure.
        sparsity: share of the pieces that is pruned.
    """
    scores = {name: patterns.scores(w, group.structure).float() for name, w in weights.items()}
    # Layers may lie on several devices.
    place = next(iter(scores.values())).device
    every = torch.cat([score.to(place) for score in scores.values()])
    count = pruned_weights(every.numel(), sparsity)
    if group.structure == "element":
        # What is zero already is among the smallest, so that masks only ever grow.
        count = max(count, every.numel() - int(kernels.count_nonzero(every)))
    keep = kernels.unpack_bits(kernels.smallest_magnitude_mask(every, count), every.numel())
    parts = keep.split([len(score) for score in scores.values()])
    return {
        name: patterns.spread(part.to(weight.device), tuple(weight.shape), group.structure)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
