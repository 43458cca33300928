"""Quantisers, masks and counts of micronet: one arithmetic on every backend."""

from .dispatch import available_backends, use_backend
from .ops import (
    Scheme,
    count_nonzero,
    count_nonzero_per_channel,
    fake_quant_per_channel,
    fake_quant_per_tensor,
    levels_of_bits,
    pack_bits,
    quantize_per_channel,
    smallest_magnitude_mask,
    unpack_bits,
    update_range_,
)

__all__ = [
    "Scheme",
    "available_backends",
    "count_nonzero",
    "count_nonzero_per_channel",
    "fake_quant_per_channel",
    "fake_quant_per_tensor",
    "levels_of_bits",
    "pack_bits",
    "quantize_per_channel",
    "smallest_magnitude_mask",
    "unpack_bits",
    "update_range_",
    "use_backend",
]
