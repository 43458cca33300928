"""One thing at once, for a network that is trained on afterwards or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from micronet.compression.compression import Compression, compress
from micronet.recipe.reader import (
    ActivationPrecision,
    PruneGroup,
    PruneSection,
    QuantizeOverride,
    QuantizeSection,
    Recipe,
    WeightPrecision,
)


def prune_(
    model: nn.Module,
    sparsity: float,
    *,
    layers: Iterable[str] = ("*",),
    structure: str = "element",
    scope: str = "layer",
) -> Compression:
    """Set the weights of least magnitude to zero, in place.

    Args:
        model: any network.
        sparsity: share of the weights, or of the pieces, that becomes zero.
        layers: patterns of the names of layers, as a recipe has them: ``*``, ``re:...``.
        structure: what is pruned as one: ``element``, ``filter``, ``channel``, ``4x1``, ``2:4``.
        scope: ``group`` ranks all layers together instead of each layer's weights.

    Returns:
        What keeps these weights at zero while the network is trained on: call its ``step`` after
        each step of the optimizer.

    Raises:
        UserError: a pattern names no layer, or a layer cannot be pruned so.
    """
    group = PruneGroup(
        tuple(layers), final_sparsity=float(sparsity), structure=structure, scope=scope
    )
    return _begun(model, Recipe(prune=PruneSection((group,), method="one-shot")))


def quantize_(
    model: nn.Module,
    weights: WeightPrecision | float | None = 4,
    activations: ActivationPrecision | float | None = 4,
    *,
    floats: Iterable[str] = (),
    overrides: Iterable[QuantizeOverride] = (),
) -> Compression:
    """Put quantized layers in place of convolutions and linear layers; parameters stay the same.

    The ranges of activations are those of no image yet: give the network some by ``calibrate_``,
    or train it.

    Args:
        model: any network.
        weights: bits of a weight, or its precision in full; None leaves weights in float.
        activations: bits of a layer's input, likewise.
        floats: patterns of the names of layers that stay in float.
        overrides: layers whose precision differs, as in a recipe.

    Returns:
        What a training loop calls, whose ``report`` says what became of each layer.

    Raises:
        UserError: a pattern names no layer, or a layer cannot be quantized.
    """
    names = tuple(floats)
    kept = [QuantizeOverride(names, weights=None, activations=None)] if names else []
    section = QuantizeSection(
        WeightPrecision(float(weights)) if isinstance(weights, (int, float)) else weights,
        ActivationPrecision(float(activations))
        if isinstance(activations, (int, float))
        else activations,
        (*kept, *overrides),
    )
    return _begun(model, Recipe(quantize=section))


def _begun(model: nn.Module, recipe: Recipe) -> Compression:
    compression = compress(model, recipe)
    compression.begin_epoch(0)
    return compression
