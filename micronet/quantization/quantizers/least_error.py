"""The ends of a quantizer that round some values with the least square error."""

from __future__ import annotations

import torch
from torch import Tensor

import micronet_kernels as kernels

# Values of one batch that are tried; more are thinned out evenly.
VALUES_OF_BATCH = 1 << 14
# Shares of an end that are tried in its place.
SHARES = torch.linspace(1.0, 0.1, 91).tolist()


def thinned(values: Tensor, every: int = 1) -> Tensor:
    """Return some of ``values``, evenly chosen, flat; each ``every``-th of what a batch gives."""
    flat = values.flatten()
    return flat[:: max(-(-flat.numel() // VALUES_OF_BATCH), 1) * every].clone()


def best_ends(values: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """Return the ends [2] of least square error, within ``low`` and ``high``, scalars.

    The upper one is chosen first, then the lower one.
    """

    def error(low: Tensor, high: Tensor) -> float:
        rounded = kernels.fake_quant_per_tensor(values, torch.stack([low, high]), levels)
        return float((rounded - values).square().sum())

    high = min((high * share for share in SHARES), key=lambda end: error(low, end))
    low = min((low * share for share in SHARES), key=lambda end: error(end, high))
    return torch.stack([low, high])
