"""What the log of an epoch says of a compression that only some recipes have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from micronet.compression.compression import Compression
from micronet.models import architectures


def epoch_facts(compression: Compression) -> dict[str, Any]:
    """Return what the log of an epoch says of a compression; waits for the device.

    Under a recipe of stages these are ``weight_bits``, the mean over all quantized weights, and
    ``input_bits``, the mean over all quantized inputs, None where there is none; where oscillations
    are followed, how many weights are ``oscillating`` and how many are ``frozen``.
    """
    facts: dict[str, Any] = {}
    if compression.plan.stages:
        bits, layers = compression.bits, architectures.layers(compression.model)
        weights = [(b.weight_bits, layers[name].weight.numel()) for name, b in bits.items()]
        facts["weight_bits"] = _mean(weights)
        facts["input_bits"] = _mean([(b.activation_bits, 1) for b in bits.values()])
    return facts | compression.oscillations.counts()


def _mean(weighted: Sequence[tuple[float | None, int]]) -> float | None:
    """Return the mean of numbers that count so many times each, without what is in float."""
    known = [(bits, count) for bits, count in weighted if bits is not None]
    total = sum(count for _, count in known)
    return sum(bits * count for bits, count in known) / total if total else None
