"""Packed bits: to and from flags, choosing and compacting by them. Counts of what is not zero."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import as_words, empty_bits, launch
from .quantizer import elements_of, gather_bits, load_bit, spread_bits, widen

# Bytes of bits that a program takes, with eight times as many elements.
BYTES = 512
BLOCK = BYTES * 8


@triton.jit
def pack_bits_kernel(flags, bits, numel, BYTES: tl.constexpr) -> None:
    """bits [numel / 8] of flags [numel], each 0 or 1."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    element = elements_of(byte)
    found = tl.load(flags + element, mask=element < numel, other=0)
    tl.store(bits + byte, gather_bits(found), mask=byte * 8 < numel)


@triton.jit
def unpack_bits_kernel(bits, flags, numel, BYTES: tl.constexpr) -> None:
    """flags [numel], each 0 or 1, of bits [numel / 8]."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    element = elements_of(byte)
    found = spread_bits(tl.load(bits + byte, mask=byte * 8 < numel, other=0))
    tl.store(flags + element, found.to(tl.uint8), mask=element < numel)


@triton.jit
def select_kernel(values, bits, out, numel, BYTES: tl.constexpr) -> None:
    """out [numel]: words of values [numel] where the bit is 1, else 0."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    element = elements_of(byte)
    keep = spread_bits(tl.load(bits + byte, mask=byte * 8 < numel, other=0)) != 0
    here = element < numel
    found = tl.load(values + element, mask=here, other=0)
    tl.store(out + element, tl.where(keep, found, 0).to(out.dtype.element_ty), mask=here)


@triton.jit
def count_bits_kernel(bits, counts, numel, ONE_COUNT: tl.constexpr, BYTES: tl.constexpr) -> None:
    """counts [1]: ones among the first numel bits; or [programs], those of each program."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    ones = spread_bits(tl.load(bits + byte, mask=byte * 8 < numel, other=0))
    count = tl.sum(tl.where(elements_of(byte) < numel, ones, 0)).to(tl.int64)
    if ONE_COUNT:
        tl.atomic_add(counts, count, sem="relaxed")
    else:
        tl.store(counts + tl.program_id(0), count)


@triton.jit
def move_by_bits_kernel(
    values,  # [numel]
    kept,  # [ones in bits]
    bits,
    before,  # [programs]: ones in the blocks before each
    numel,
    COMPACT: tl.constexpr,  # from values to kept; else back, with 0 where the bit is 0
    BLOCK: tl.constexpr,
) -> None:
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = element < numel
    one = load_bit(bits, element, here)
    place = tl.load(before + tl.program_id(0)) + tl.cumsum(one, axis=0) - one
    if COMPACT:
        found = tl.load(values + element, mask=one != 0, other=0)
        tl.store(kept + place, found, mask=one != 0)
    else:
        found = tl.load(kept + place, mask=one != 0, other=0)
        tl.store(values + element, found, mask=here)


@triton.jit
def count_nonzero_kernel(w, counts, per_channel, tiles, BLOCK: tl.constexpr) -> None:
    """counts [channels]: elements other than 0 of the rows w [channels, per_channel]."""
    channel = tl.program_id(0).to(tl.int64) // tiles
    column = tl.program_id(0).to(tl.int64) % tiles * BLOCK + tl.arange(0, BLOCK)
    found = widen(tl.load(w + channel * per_channel + column, mask=column < per_channel, other=0.0))
    count = tl.sum((found != 0.0).to(tl.int32))
    tl.atomic_add(counts + channel, count.to(tl.int64), sem="relaxed")


def _programs(bits: Tensor) -> int:
    return triton.cdiv(bits.numel(), BYTES)


def pack_bits(flags: Tensor) -> Tensor:
    """Bit i % 8 of byte i // 8 is flag i, in logical order; unused bits are 0."""
    bits = empty_bits(flags, flags.numel())
    flags = flags.view(torch.uint8)
    launch(pack_bits_kernel, _programs(bits), flags, bits, flags.numel(), BYTES=BYTES)
    return bits


def unpack_bits(bits: Tensor, numel: int) -> Tensor:
    """The first `numel` bits as booleans, [numel]."""
    flags = bits.new_empty(numel, dtype=torch.bool)
    words = flags.view(torch.uint8)
    launch(unpack_bits_kernel, _programs(bits), bits, words, numel, BYTES=BYTES)
    return flags


def select_by_bits(values: Tensor, bits: Tensor) -> Tensor:
    """`values` where the bit is 1, else 0; bits follow the memory order of `values`."""
    out = torch.empty_like(values)
    words = as_words(values), bits, as_words(out)
    launch(select_kernel, _programs(bits), *words, values.numel(), BYTES=BYTES)
    return out


def count_bits(bits: Tensor, numel: int) -> Tensor:
    """How many of the first `numel` bits are 1, an int64 scalar."""
    count = bits.new_zeros((), dtype=torch.int64)
    launch(count_bits_kernel, _programs(bits), bits, count, numel, ONE_COUNT=True, BYTES=BYTES)
    return count


def _ones_before(bits: Tensor, numel: int) -> tuple[Tensor, int]:
    """Ones before each block of elements, and in all; waits for the device."""
    counts = bits.new_empty(_programs(bits), dtype=torch.int64)
    launch(count_bits_kernel, counts.numel(), bits, counts, numel, ONE_COUNT=False, BYTES=BYTES)
    before = counts.cumsum(0) - counts
    return before, int(counts.sum())


def compact_by_bits(values: Tensor, bits: Tensor, count: int) -> Tensor:
    """The values whose bit is 1, in order, [count]."""
    before, ones = _ones_before(bits, values.numel())
    if ones != count:
        raise ValueError(f"count is {count}, but {ones} of the bits are 1")
    kept = values.new_empty(count)
    words = as_words(values), as_words(kept), bits, before
    launch(move_by_bits_kernel, before.numel(), *words, values.numel(), COMPACT=True, BLOCK=BLOCK)
    return kept


def expand_by_bits(kept: Tensor, bits: Tensor, numel: int) -> Tensor:
    """The inverse of `compact_by_bits`: kept values where the bit is 1, else 0, [numel]."""
    before, ones = _ones_before(bits, numel)
    if ones != kept.numel():
        raise ValueError(f"there are {kept.numel()} values, but {ones} of the bits are 1")
    values = kept.new_empty(numel)
    words = as_words(values), as_words(kept), bits, before
    launch(move_by_bits_kernel, before.numel(), *words, numel, COMPACT=False, BLOCK=BLOCK)
    return values


def _count_nonzero(w: Tensor, counts: Tensor) -> Tensor:
    per_channel = w.numel() // max(counts.numel(), 1)
    tiles = triton.cdiv(per_channel, BLOCK)
    programs = counts.numel() * tiles
    launch(count_nonzero_kernel, programs, w, counts, per_channel, tiles, BLOCK=BLOCK)
    return counts


def count_nonzero(w: Tensor) -> Tensor:
    """Number of elements other than 0, an int64 scalar."""
    return _count_nonzero(w, w.new_zeros((), dtype=torch.int64))


def count_nonzero_per_channel(w: Tensor) -> Tensor:
    """Number of elements other than 0 at each index of dimension 0, int64 [C]."""
    return _count_nonzero(w, w.new_zeros(w.shape[0], dtype=torch.int64))
