"""Packed bits: flags, population counts, compaction by them. Counts of what is not zero."""

import torch
from torch import Tensor

from ..checks import (
    FLOATS,
    check_bits,
    check_contiguous,
    check_count,
    check_float,
    check_order,
    check_same_device,
)
from .registry import define, empty, empty_bits


def _check_pack(flags: Tensor) -> None:
    check_contiguous("flags", flags, torch.bool)


def _check_unpack(bits: Tensor, numel: int) -> None:
    check_count("numel", numel)
    check_bits("bits", bits, numel, "flags")


def _check_compact(values: Tensor, bits: Tensor, count: int) -> None:
    """That `count` bits are 1 is looked at by the kernels."""
    _check_values("values", values)
    check_bits("bits", bits, values.numel(), "values")
    check_same_device("bits", bits, values)
    check_count("count", count)


def _check_expand(kept: Tensor, bits: Tensor, numel: int) -> None:
    """That the bits suit the values is looked at by the kernels."""
    _check_values("kept", kept)
    _check_unpack(bits, numel)
    check_same_device("bits", bits, kept)


def _check_values(name: str, values: Tensor) -> None:
    if values.dtype not in (*FLOATS, torch.uint8, torch.int8):
        raise TypeError(f"{name} is {values.dtype}, but must be floats or bytes")
    check_order(name, values)


def _check_count(w: Tensor) -> None:
    check_float("w", w)
    check_order("w", w)


def _check_count_per_channel(w: Tensor) -> None:
    _check_count(w)
    if w.dim() == 0:
        raise ValueError("w is a scalar, but must have channels in dimension 0")


define("pack_bits(Tensor flags) -> Tensor", _check_pack, empty_bits)
define(
    "unpack_bits(Tensor bits, int numel) -> Tensor",
    _check_unpack,
    lambda bits, numel: empty(bits, (numel,), torch.bool),
)
define(
    "count_bits(Tensor bits, int numel) -> Tensor",
    _check_unpack,
    lambda bits, numel: empty(bits, (), torch.int64),
)
define(
    "compact_by_bits(Tensor values, Tensor bits, int count) -> Tensor",
    _check_compact,
    lambda values, bits, count: empty(values, (count,), values.dtype),
)
define(
    "expand_by_bits(Tensor kept, Tensor bits, int numel) -> Tensor",
    _check_expand,
    lambda kept, bits, numel: empty(kept, (numel,), kept.dtype),
)
define(
    "count_nonzero(Tensor w) -> Tensor",
    _check_count,
    lambda w: empty(w, (), torch.int64),
)
define(
    "count_nonzero_per_channel(Tensor w) -> Tensor",
    _check_count_per_channel,
    lambda w: empty(w, (w.shape[0],), torch.int64),
)

_OP = torch.ops.micronet


def pack_bits(flags: Tensor) -> Tensor:
    """Bool tensor, in logical order, to uint8 [ceil(numel / 8)]; TypeError for another dtype."""
    return _OP.pack_bits.default(flags.contiguous())


def unpack_bits(bits: Tensor, numel: int) -> Tensor:
    """Packed uint8 to bool [numel]; ValueError where the bytes are not exactly those needed."""
    return _OP.unpack_bits.default(bits.contiguous(), numel)


def count_bits(bits: Tensor, numel: int) -> Tensor:
    """How many of the first `numel` packed bits are 1, an int64 scalar; raises as `unpack_bits`."""
    return _OP.count_bits.default(bits.contiguous(), numel)


def compact_by_bits(values: Tensor, bits: Tensor, count: int) -> Tensor:
    """The `count` values, in logical order, whose bit is 1. Waits for the device.

    `values` are floats or bytes. Raises ValueError where not exactly `count` bits are 1 or the
    bytes are not those needed, TypeError for a dtype.
    """
    return _OP.compact_by_bits.default(values.detach().contiguous(), bits.contiguous(), count)


def expand_by_bits(kept: Tensor, bits: Tensor, numel: int) -> Tensor:
    """The inverse of `compact_by_bits`: [numel], 0 where the bit is 0; raises as that does."""
    return _OP.expand_by_bits.default(kept.detach().contiguous(), bits.contiguous(), numel)


def count_nonzero(w: Tensor) -> Tensor:
    """Number of elements of a float w other than 0, an int64 scalar; TypeError for a dtype."""
    return _OP.count_nonzero.default(w.detach().contiguous())


def count_nonzero_per_channel(w: Tensor) -> Tensor:
    """Elements of a float w [C, ...] other than 0 per channel, int64 [C]; raises for a scalar."""
    return _OP.count_nonzero_per_channel.default(w.detach().contiguous())
