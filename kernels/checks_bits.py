"""What the operators on bits, counts and selections refuse."""

import torch
from torch import Tensor

from .checks import (
    FLOATS,
    check_bits,
    check_contiguous,
    check_count,
    check_float,
    check_order,
    check_same_device,
)


def smallest_magnitude_mask(w: Tensor, k: int) -> None:
    """Check of `smallest_magnitude_mask`; NaN is looked for by the kernels."""
    check_float("w", w)
    check_order("w", w)
    if not 0 <= k <= w.numel():
        raise ValueError(f"k is {k}, but w has {w.numel()} weights to prune")


def pack_bits(flags: Tensor) -> None:
    """Check of `pack_bits`."""
    check_contiguous("flags", flags, torch.bool)


def unpack_bits(bits: Tensor, numel: int) -> None:
    """Check of `unpack_bits` and `count_bits`."""
    check_count("numel", numel)
    check_bits("bits", bits, numel, "flags")


def compact_by_bits(values: Tensor, bits: Tensor, count: int) -> None:
    """Check of `compact_by_bits`; that `count` bits are 1 is looked at by the kernels."""
    _check_values("values", values)
    check_bits("bits", bits, values.numel(), "values")
    check_same_device("bits", bits, values)
    check_count("count", count)


def expand_by_bits(kept: Tensor, bits: Tensor, numel: int) -> None:
    """Check of `expand_by_bits`; that the bits suit the values is looked at by the kernels."""
    _check_values("kept", kept)
    unpack_bits(bits, numel)
    check_same_device("bits", bits, kept)


def _check_values(name: str, values: Tensor) -> None:
    if values.dtype not in (*FLOATS, torch.uint8, torch.int8):
        raise TypeError(f"{name} is {values.dtype}, but must be floats or bytes")
    check_order(name, values)


def count_nonzero(w: Tensor) -> None:
    """Check of `count_nonzero`."""
    check_float("w", w)
    check_order("w", w)


def count_nonzero_per_channel(w: Tensor) -> None:
    """Check of `count_nonzero_per_channel`."""
    count_nonzero(w)
    if w.dim() == 0:
        raise ValueError("w is a scalar, but must have channels in dimension 0")
