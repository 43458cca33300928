"""Which weights to prune: exactly the k smallest magnitudes, by radix selection."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import as_words, empty_bits, launch
from .quantizer import gather_bits

# The k-th smallest magnitude is found by eight of its bits at a time, the highest first.
DIGIT_BITS = 8
BINS = 1 << DIGIT_BITS
# Elements that a program takes at a time.
BLOCK = 4096
# Programs that make a histogram: each adds all of its bins to the common one.
MOST_PROGRAMS = 512
# Entries of the state of a selection: the digits found, how many of the k are still to be found
# among the magnitudes that begin with them, and whether there was NaN.
_PREFIX = tl.constexpr(0)
_LEFT = tl.constexpr(1)
_NAN = tl.constexpr(2)


@triton.jit
def _magnitudes(words, element, numel):
    """|w| as integers, which order as the magnitudes do; -1 beyond the end."""
    word = tl.load(words + element, mask=element < numel, other=0)
    if words.dtype.element_ty == tl.int16:
        magnitude = word.to(tl.int32) & 0x7FFF
    else:
        magnitude = word & 0x7FFFFFFF
    return tl.where(element < numel, magnitude, -1)


@triton.jit(do_not_specialize=["shift"])
def histogram_kernel(
    words, state, histogram, numel, shift, BINS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Counts, into histogram [BINS], the digit of each magnitude that begins with the prefix."""
    prefix = tl.load(state + _PREFIX) >> shift
    found = tl.zeros((BINS,), tl.int32)
    tiles = tl.cdiv(numel, BLOCK)
    tile = tl.program_id(0).to(tl.int64)
    while tile < tiles:
        high = _magnitudes(words, tile * BLOCK + tl.arange(0, BLOCK), numel) >> shift
        begins = (high >= 0) & (high // BINS == prefix // BINS)
        found += tl.histogram(high & (BINS - 1), BINS, mask=begins)
        tile += tl.num_programs(0)
    bins = tl.arange(0, BINS)
    tl.atomic_add(histogram + bins, found.to(tl.int64), mask=found != 0, sem="relaxed")


@triton.jit(do_not_specialize=["shift"])
def choose_digit_kernel(state, histogram, shift, BINS: tl.constexpr) -> None:
    """Adds to the prefix the digit with which the magnitude that is sought goes on."""
    prefix = tl.load(state + _PREFIX)
    left = tl.load(state + _LEFT)
    count = tl.load(histogram + tl.arange(0, BINS))
    smaller = tl.cumsum(count, axis=0) < left
    digit = tl.sum(smaller.to(tl.int64), axis=0)
    tl.store(state + _PREFIX, prefix | (digit << shift))
    tl.store(state + _LEFT, left - tl.sum(tl.where(smaller, count, 0), axis=0))


@triton.jit
def count_equal_kernel(words, state, counts, numel, infinity, BLOCK: tl.constexpr) -> None:
    """counts [programs]: magnitudes in each block equal to the k-th smallest; looks for NaN."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    magnitude = _magnitudes(words, element, numel)
    equal = magnitude == tl.load(state + _PREFIX)
    tl.store(counts + tl.program_id(0), tl.sum(equal.to(tl.int32)).to(tl.int64))
    if tl.max(magnitude) > infinity:
        tl.store(state + _NAN, 1)


@triton.jit
def keep_kernel(words, state, before, bits, numel, BLOCK: tl.constexpr) -> None:
    """bits [numel / 8]: 1 above the k-th smallest magnitude and at the last of its equals.

    before [programs]: how many equals the blocks before each hold.
    """
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    magnitude = _magnitudes(words, element, numel)
    threshold = tl.load(state + _PREFIX)
    equal = (magnitude == threshold).to(tl.int32)
    rank = tl.load(before + tl.program_id(0)) + tl.cumsum(equal, axis=0) - equal
    last = (equal != 0) & (rank >= tl.load(state + _LEFT))
    keep = (magnitude > threshold) | last
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    flags = gather_bits(tl.reshape(keep.to(tl.int32), (BLOCK // 8, 8)))
    tl.store(bits + byte, flags, mask=byte * 8 < numel)


def _find_threshold(words: Tensor, k: int) -> Tensor:
    """The state of the selection when all digits are found."""
    state = words.new_zeros(3, dtype=torch.int64)
    state[_LEFT.value] = k
    shifts = range(8 * words.element_size() - DIGIT_BITS, -1, -DIGIT_BITS)
    histograms = words.new_zeros((len(shifts), BINS), dtype=torch.int64)
    programs = min(triton.cdiv(words.numel(), BLOCK), MOST_PROGRAMS)
    for histogram, shift in zip(histograms, shifts, strict=True):
        place = state, histogram, words.numel(), shift
        launch(histogram_kernel, programs, words, *place, BINS=BINS, BLOCK=BLOCK)
        launch(choose_digit_kernel, 1, state, histogram, shift, BINS=BINS)
    return state


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed bits of w, 0 at its k smallest magnitudes; of equal ones the first go first."""
    mask, words, numel = empty_bits(w, w.numel()), as_words(w), w.numel()
    if numel == 0:
        return mask
    state = _find_threshold(words, k)
    blocks = triton.cdiv(numel, BLOCK)
    counts = w.new_empty(blocks, dtype=torch.int64)
    infinity = int(as_words(torch.tensor(torch.inf, dtype=w.dtype)))
    launch(count_equal_kernel, blocks, words, state, counts, numel, infinity, BLOCK=BLOCK)
    before = counts.cumsum(0) - counts
    launch(keep_kernel, blocks, words, state, before, mask, numel, BLOCK=BLOCK)
    if bool(state[_NAN.value]):
        raise ValueError("weights hold NaN, which has no magnitude to compare")
    return mask
