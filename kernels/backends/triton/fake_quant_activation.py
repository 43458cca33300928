"""Activations: the moving range, rounding to one range, and codes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import code_bytes
from .launch import codes_in_a_byte, empty_bits, launch
from .moving_range import (
    MOST_PROGRAMS,
    find_extremes,
    partial_extremes,
    reduce_extremes,
    reduce_partial,
    store_extremes,
)
from .quantizer import (
    dequantize,
    elements_of,
    gather_bits,
    larger,
    load_quantizer,
    make_quantizer,
    narrow,
    quantize,
    smaller,
    widen,
)

# Bytes of bits that a program makes at a time, from eight times as many elements.
BYTES = 256


@triton.jit
def _load_tile(x, tile, numel, BYTES: tl.constexpr):
    """Bytes of bits, their [BYTES, 8] elements of x, and those as float32, 0 beyond the end."""
    byte = tile * BYTES + tl.arange(0, BYTES)
    element = elements_of(byte)
    return byte, element, widen(tl.load(x + element, mask=element < numel, other=0.0))


@triton.jit
def _nothing_seen(BYTES: tl.constexpr):
    """The extremes of no elements, for each place of a tile."""
    lo = tl.full((BYTES, 8), float("inf"), tl.float32)
    return lo, -lo


@triton.jit
def _seen_with(seen_lo, seen_hi, v, here):
    """The extremes of each place of a tile, of one more tile."""
    lo = smaller(seen_lo, tl.where(here, v, float("inf")))
    return lo, larger(seen_hi, tl.where(here, v, float("-inf")))


@triton.jit
def _store_inside(inside, byte, x, element, numel, lo, hi):
    flags = (x >= lo) & (x <= hi) & (element < numel)
    tl.store(inside + byte, gather_bits(flags), mask=byte * 8 < numel)


@triton.jit
def _store_rounded(y, inside, byte, x, element, numel, lo, hi, scale, zero, least, most):
    """Values of a tile in y's type, and the bits of what lies in the range."""
    value = dequantize(quantize(x, scale, zero, least, most), scale, zero)
    tl.store(y + element, narrow(value, y.dtype.element_ty), mask=element < numel)
    _store_inside(inside, byte, x, element, numel, lo, hi)


@triton.jit(do_not_specialize=["levels"])
def fake_quant_kernel(
    x, ends, y, inside, numel, levels, SCHEME: tl.constexpr, BYTES: tl.constexpr
) -> None:
    """y [numel] and inside [numel / 8] of x [numel] for the range ends [2]."""
    lo, hi, scale, zero, least, most = load_quantizer(ends, levels, SCHEME)
    byte, element, v = _load_tile(x, tl.program_id(0).to(tl.int64), numel, BYTES)
    _store_rounded(y, inside, byte, v, element, numel, lo, hi, scale, zero, least, most)


@triton.jit(do_not_specialize=["levels"])
def fake_quant_observed_kernel(
    x,
    ends,
    step,
    first,  # [2, programs]: the extremes of x where step is 0, else not read
    partial,  # [2, programs]
    y,
    inside,
    numel,
    levels,
    SCHEME: tl.constexpr,
    BYTES: tl.constexpr,
    MOST: tl.constexpr,
) -> None:
    """As fake_quant_kernel, with partial extremes of x from the same read."""
    if tl.load(step) > 0:
        lo = tl.load(ends)
        hi = tl.load(ends + 1)
    else:
        lo, hi = reduce_partial(first, tl.num_programs(0), MOST)
    lo, hi, scale, zero, least, most = make_quantizer(lo, hi, levels, SCHEME)
    seen_lo, seen_hi = _nothing_seen(BYTES)
    tile = tl.program_id(0).to(tl.int64)
    while tile < tl.cdiv(numel, BYTES * 8):
        byte, element, v = _load_tile(x, tile, numel, BYTES)
        seen_lo, seen_hi = _seen_with(seen_lo, seen_hi, v, element < numel)
        _store_rounded(y, inside, byte, v, element, numel, lo, hi, scale, zero, least, most)
        tile += tl.num_programs(0)
    store_extremes(partial, seen_lo, seen_hi)


@triton.jit(do_not_specialize=["levels"])
def quantize_kernel(
    x,
    ends,
    partial,  # [2, programs]
    codes,
    inside,
    numel,
    levels,
    SCHEME: tl.constexpr,
    EACH: tl.constexpr,
    BYTES: tl.constexpr,
) -> None:
    """codes, EACH a byte, and inside [numel / 8] of x [numel], with partial extremes of x."""
    lo, hi, scale, zero, least, most = load_quantizer(ends, levels, SCHEME)
    seen_lo, seen_hi = _nothing_seen(BYTES)
    tile = tl.program_id(0).to(tl.int64)
    while tile < tl.cdiv(numel, BYTES * 8):
        byte, element, v = _load_tile(x, tile, numel, BYTES)
        here = element < numel
        seen_lo, seen_hi = _seen_with(seen_lo, seen_hi, v, here)
        code = quantize(v, scale, zero, least, most)
        whole = tl.where(here & (code == code), code - least, 0.0).to(tl.int32)
        COUNT: tl.constexpr = BYTES * 8 // EACH
        parts = tl.reshape(whole, (COUNT, EACH)) << (tl.arange(0, EACH)[None, :] * 4)
        at = tile * COUNT + tl.arange(0, COUNT)
        tl.store(codes + at, tl.sum(parts, axis=1).to(tl.uint8), mask=at * EACH < numel)
        _store_inside(inside, byte, v, element, numel, lo, hi)
        tile += tl.num_programs(0)
    store_extremes(partial, seen_lo, seen_hi)


@triton.jit(do_not_specialize=["levels"])
def dequantize_kernel(
    codes, ends, y, numel, levels, SCHEME: tl.constexpr, EACH: tl.constexpr, BYTES: tl.constexpr
) -> None:
    """y [numel], of any type: the values of codes, EACH a byte."""
    _, _, scale, zero, least, _ = load_quantizer(ends, levels, SCHEME)
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    part = tl.arange(0, EACH)[None, :]
    element = byte[:, None] * EACH + part
    all_of_byte = tl.load(codes + byte, mask=byte * EACH < numel, other=0).to(tl.int32)
    whole = (all_of_byte[:, None] >> (part * 4)) & (15 if EACH == 2 else 255)
    value = dequantize(whole.to(tl.float32) + least, scale, zero)
    tl.store(y + element, narrow(value, y.dtype.element_ty), mask=element < numel)


def fake_quant_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor]:
    """Values of the codes of x in x's dtype, and the bits of lo <= x <= hi in memory order."""
    y, inside = torch.empty_like(x), empty_bits(x, x.numel())
    operands = (x, range.contiguous(), y, inside, x.numel(), levels)
    programs = triton.cdiv(inside.numel(), BYTES)
    launch(fake_quant_kernel, programs, *operands, SCHEME=scheme, BYTES=BYTES)
    return y, inside


def fake_quant_per_tensor_observed(
    x: Tensor, range: Tensor, step: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fake_quant_per_tensor`, with the extremes of x, which are the range where step is 0."""
    y, inside = torch.empty_like(x), empty_bits(x, x.numel())
    first, _ = find_extremes(x, step, first_only=True)
    partial, programs = partial_extremes(x)
    operands = (x, range.contiguous(), step, first, partial, y, inside, x.numel(), levels)
    constants = {"SCHEME": scheme, "BYTES": BYTES, "MOST": MOST_PROGRAMS}
    launch(fake_quant_observed_kernel, programs, *operands, **constants)
    return y, inside, reduce_extremes(partial, programs)


def quantize_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes less code_min in memory order, packed; bits as above; the extremes of x."""
    codes = x.new_empty(code_bytes(x.numel(), levels), dtype=torch.uint8)
    inside = empty_bits(x, x.numel())
    partial, programs = partial_extremes(x)
    operands = (x, range.contiguous(), partial, codes, inside, x.numel(), levels)
    constants = {"SCHEME": scheme, "EACH": codes_in_a_byte(levels), "BYTES": BYTES}
    launch(quantize_kernel, programs, *operands, **constants)
    return codes, inside, reduce_extremes(partial, programs)


def dequantize_per_tensor(
    packed: Tensor, range: Tensor, numel: int, levels: int, scheme: int, dtype: torch.dtype
) -> Tensor:
    """The values of packed codes, [numel], rounded to a dtype."""
    y = packed.new_empty(numel, dtype=dtype)
    operands = (packed, range.contiguous(), y, numel, levels)
    constants = {"SCHEME": scheme, "EACH": codes_in_a_byte(levels), "BYTES": BYTES * 4}
    launch(dequantize_kernel, triton.cdiv(packed.numel(), BYTES * 4), *operands, **constants)
    return y
