"""Packed bits: flags, population counts, compaction by them. Counts of what is not zero."""

import torch
from torch import Tensor

from .. import checks_bits
from .registry import define, empty, empty_bits

define("pack_bits(Tensor flags) -> Tensor", checks_bits.pack_bits, empty_bits)
define(
    "unpack_bits(Tensor bits, int numel) -> Tensor",
    checks_bits.unpack_bits,
    lambda bits, numel: empty(bits, (numel,), torch.bool),
)
define(
    "count_bits(Tensor bits, int numel) -> Tensor",
    checks_bits.unpack_bits,
    lambda bits, numel: empty(bits, (), torch.int64),
)
define(
    "compact_by_bits(Tensor values, Tensor bits, int count) -> Tensor",
    checks_bits.compact_by_bits,
    lambda values, bits, count: empty(values, (count,), values.dtype),
)
define(
    "expand_by_bits(Tensor kept, Tensor bits, int numel) -> Tensor",
    checks_bits.expand_by_bits,
    lambda kept, bits, numel: empty(kept, (numel,), kept.dtype),
)
define(
    "count_nonzero(Tensor w) -> Tensor",
    checks_bits.count_nonzero,
    lambda w: empty(w, (), torch.int64),
)
define(
    "count_nonzero_per_channel(Tensor w) -> Tensor",
    checks_bits.count_nonzero_per_channel,
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
