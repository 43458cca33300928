"""Automated gradual pruning: sparsity targets, and the masks that hold them.

Zhu & Gupta 2017, "To prune, or not to prune": the target follows a cubic from the initial to the
final sparsity. Masks are bits, chosen by magnitude, exactly as many as the target says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet import models
from micronet.config import PruneGroup, PruneSection
from micronet.errors import UserError
from micronet.layers import match_layers


def firing_epochs(section: PruneSection) -> range:
    """Return the epochs at whose beginning masks are chosen anew."""
    return range(section.start_epoch, section.end_epoch, section.frequency)


def target_sparsity(section: PruneSection, group: PruneGroup, epoch: int) -> float:
    """Return the cubic's sparsity at a firing epoch; the last one is exactly the final sparsity.

    Source: Zhu & Gupta 2017, equation 1, with the span that the firing epochs really cover.
    """
    span = firing_epochs(section)[-1] - section.start_epoch
    if span == 0:
        return group.final_sparsity
    left = 1.0 - (epoch - section.start_epoch) / span
    return group.final_sparsity + (group.initial_sparsity - group.final_sparsity) * left**3


def layer_groups(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, PruneGroup]:
    """Return the pruning group of every layer that is in one.

    Raises:
        UserError: a pattern names no layer of the model, or the schedule prunes no weight.
    """
    layers = models.layers(model)
    patterns = [group.layers for group in section.groups]
    assigned = match_layers(layers, patterns, "prune.groups", path)
    groups = {name: section.groups[assigned[name]] for name in layers if name in assigned}
    pruned = sum(
        pruned_weights(layers[n].weight.numel(), g.final_sparsity) for n, g in groups.items()
    )
    if pruned == 0:
        raise UserError(f"{path}: prune.groups prunes no weight of this network")
    return groups


def final_sparsities(
    model: nn.Module, section: PruneSection, path: str = "<schedule>"
) -> dict[str, float]:
    """Return the final sparsity of every layer that the schedule prunes."""
    groups = layer_groups(model, section, path)
    return {name: group.final_sparsity for name, group in groups.items()}


def pruned_weights(numel: int, sparsity: float) -> int:
    """Return how many of ``numel`` weights a sparsity prunes: the truncated float product.

    It is the 2019 system's rule, and the one that its published counts follow.
    """
    return int(sparsity * numel)


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
        """Choose the masks of a firing epoch from the current weights, and apply them."""
        layers = models.layers(model)
        for name, group in groups.items():
            weight = layers[name].weight.detach()
            count = pruned_weights(weight.numel(), target_sparsity(section, group, epoch))
            # Masks are monotone: what an earlier stage pruned stays pruned.
            self._set(name, weight, max(count, self.pruned(name, weight.numel())))
        self.apply_(model)

    def _set(self, name: str, weight: Tensor, count: int) -> None:
        self.bits[name] = kernels.smallest_magnitude_mask(weight, count)
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
            weight = layers[name].weight
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


def sparsity(model: nn.Module, names: Iterable[str] | None = None) -> float:
    """Return the share of exact zeros among the weights of the named layers (all by default)."""
    layers = models.layers(model)
    chosen = [layers[name].weight.detach() for name in (layers if names is None else names)]
    total = sum(weight.numel() for weight in chosen)
    nonzero = sum(int(kernels.count_nonzero(weight)) for weight in chosen)
    return 1.0 - nonzero / total if total else 0.0


def convolution_sparsity(model: nn.Module) -> float:
    """Return the share of exact zeros among all convolution weights."""
    layers = models.layers(model)
    return sparsity(model, [n for n, m in layers.items() if isinstance(m, nn.Conv2d)])
