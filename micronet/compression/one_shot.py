"""One thing at once, for a network that is trained on afterwards or not at all."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from micronet.compression.compress import compress
from micronet.compression.compression import Compression
from micronet.recipe.reader import Recipe
from micronet.recipe.schema import (
    ActivationPrecision,
    PruneGroup,
    PruneSection,
    QuantizeOverride,
    QuantizeSection,
    WeightPrecision,
)
from micronet.utils.errors import UserError


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
    names = _patterns("layers", layers)
    if not _is_number(sparsity):
        raise UserError(f"sparsity is a number from 0 to 1, not {sparsity!r}")
    group = PruneGroup(names, final_sparsity=float(sparsity), structure=structure, scope=scope)
    return _begun(model, Recipe(prune=PruneSection((group,), method="one-shot")))


def quantize_(
    model: nn.Module,
    weights: WeightPrecision | float | None = 4,
    activations: ActivationPrecision | float | None = 4,
    *,
    floats: Iterable[str] = (),
    overrides: Iterable[QuantizeOverride] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
        mean: by which images are normalized, as in ``compress``.
        std: the standard deviation that goes with it.

    Returns:
        What a training loop calls, whose ``report`` says what became of each layer.

    Raises:
        UserError: a pattern names no layer, or a layer cannot be quantized.
    """
    names = _patterns("floats", floats)
    kept = [QuantizeOverride(names, weights=None, activations=None)] if names else []
    section = QuantizeSection(
        _precision("weights", WeightPrecision, weights),
        _precision("activations", ActivationPrecision, activations),
        (*kept, *overrides),
    )
    return _begun(model, Recipe(quantize=section), mean=mean, std=std)


def _patterns(name: str, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return patterns of layers as a tuple; one text would count as one for each letter."""
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise UserError(f"{name} takes a list of patterns, such as ['fc'], not {patterns!r}")
    return tuple(patterns)


def _precision(name: str, kind: type, value: Any) -> Any:
    if value is None or isinstance(value, kind):
        return value
    if not _is_number(value):
        raise UserError(f"{name} takes a number of bits, {kind.__name__} or None, not {value!r}")
    return kind(float(value))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _begun(model: nn.Module, recipe: Recipe, **images: Any) -> Compression:
    compression = compress(model, recipe, **images)
    compression.begin_epoch(0)
    return compression
