"""Which weights to prune: exactly the k smallest magnitudes."""

import torch
from torch import Tensor

from ..checks import check_float, check_order
from .registry import define, empty_bits


def _check(w: Tensor, k: int) -> None:
    """NaN is looked for by the kernels."""
    check_float("w", w)
    check_order("w", w)
    if not 0 <= k <= w.numel():
        raise ValueError(f"k is {k}, but w has {w.numel()} weights to prune")


define("smallest_magnitude_mask(Tensor w, int k) -> Tensor", _check, lambda w, k: empty_bits(w))


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed mask [ceil(numel / 8)] that prunes exactly the k smallest magnitudes of w.

    Of equal magnitudes the lower flat index is pruned first. Waits for the device. Raises
    ValueError for NaN or a k outside 0 to numel. Source: magnitude pruning, Han et al. 2015.
    """
    return torch.ops.micronet.smallest_magnitude_mask.default(w.detach().contiguous(), k)
