"""Which weights to prune: exactly the k smallest magnitudes."""

import torch
from torch import Tensor

from .. import checks_bits
from .registry import define, empty_bits

define(
    "smallest_magnitude_mask(Tensor w, int k) -> Tensor",
    checks_bits.smallest_magnitude_mask,
    lambda w, k: empty_bits(w),
)


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed mask [ceil(numel / 8)] that prunes exactly the k smallest magnitudes of w.

    Of equal magnitudes the lower flat index is pruned first. Waits for the device. Raises
    ValueError for NaN or a k outside 0 to numel. Source: magnitude pruning, Han et al. 2015.
    """
    return torch.ops.micronet.smallest_magnitude_mask.default(w.detach().contiguous(), k)
