"""Pruning targets over the epochs, and how many weights they prune.

Gradual pruning follows Zhu & Gupta 2017, "To prune, or not to prune": the target rises on a cubic
from the initial to the final sparsity.
"""

from __future__ import annotations

import torch

from micronet.pruning import patterns
from micronet.recipe.schema import PruneGroup, PruneSection


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
    count = patterns.pieces(shape, group.structure)
    return numel * pruned_weights(count, sparsity) // count
