"""Packed bits: to and from flags, choosing and compacting by them. Counts of what is not zero."""

import torch
from torch import Tensor


def memory_order(x: Tensor) -> Tensor:
    """The elements of a dense tensor in the order in which memory holds them."""
    return x.as_strided((x.numel(),), (1,))


def in_memory_order_of(x: Tensor, flat: Tensor) -> Tensor:
    """A flat tensor, seen with the shape and the strides of dense `x`."""
    return flat.as_strided(x.shape, x.stride())


def pack_bits(flags: Tensor) -> Tensor:
    """Bit i % 8 of byte i // 8 is flag i, in logical order; unused bits are 0."""
    flat = flags.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    place = torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (padded.to(torch.uint8) << place).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, numel: int) -> Tensor:
    """The first `numel` bits as booleans, [numel]."""
    place = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> place) & 1).view(-1)[:numel].bool()


def select_by_bits(values: Tensor, bits: Tensor) -> Tensor:
    """`values` where the bit is 1, else 0; bits follow the memory order of `values`."""
    keep = in_memory_order_of(values, unpack_bits(bits, values.numel()))
    return torch.where(keep, values, 0.0)


def count_bits(bits: Tensor, numel: int) -> Tensor:
    """How many of the first `numel` bits are 1, an int64 scalar."""
    return unpack_bits(bits, numel).sum()


def compact_by_bits(values: Tensor, bits: Tensor, count: int) -> Tensor:
    """The values whose bit is 1, in order, [count]."""
    kept = values.reshape(-1)[unpack_bits(bits, values.numel())]
    if kept.numel() != count:
        raise ValueError(f"count is {count}, but {kept.numel()} of the bits are 1")
    return kept


def expand_by_bits(kept: Tensor, bits: Tensor, numel: int) -> Tensor:
    """The inverse of `compact_by_bits`: kept values where the bit is 1, else 0, [numel]."""
    where = unpack_bits(bits, numel)
    if int(where.sum()) != kept.numel():
        raise ValueError(
            f"there are {kept.numel()} values, but {int(where.sum())} of the bits are 1"
        )
    out = kept.new_zeros(numel)
    out[where] = kept
    return out


def count_nonzero(w: Tensor) -> Tensor:
    """Number of elements other than 0, an int64 scalar."""
    return (w != 0).sum()


def count_nonzero_per_channel(w: Tensor) -> Tensor:
    """Number of elements other than 0 at each index of dimension 0, int64 [C]."""
    return (w != 0).reshape(w.shape[0], w[:1].numel()).sum(1)
