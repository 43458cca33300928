"""Which weights to prune: exactly the k smallest magnitudes."""

import torch
from torch import Tensor

from .bits_and_counts import pack_bits


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed bits of w, 0 at its k smallest magnitudes; of equal ones the first go first."""
    magnitude = w.reshape(-1).float().abs()
    if magnitude.isnan().any():
        raise ValueError("weights hold NaN, which has no magnitude to compare")
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[torch.sort(magnitude, stable=True).indices[:k]] = False
    return pack_bits(keep)
