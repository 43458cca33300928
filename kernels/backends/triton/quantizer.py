"""The arithmetic of `csrc/include/quant.h`, and tiles of packed bits, for all kernels.

Kernels are launched without fusion of multiply and add, division is the correctly rounded one,
and minima and maxima keep NaN.
"""

import triton
import triton.language as tl

from ...scheme import Scheme

_LEARNED = tl.constexpr(int(Scheme.LEARNED))
_AFFINE = tl.constexpr(int(Scheme.AFFINE))
_SYMMETRIC = tl.constexpr(int(Scheme.SYMMETRIC))
_DISTILLER_SYMMETRIC = tl.constexpr(int(Scheme.DISTILLER_SYMMETRIC))
# Triton's interpreter cuts bfloat16 off instead of rounding it.
_ROUND_BFLOAT16_BY_HAND = tl.constexpr(triton.knobs.runtime.interpret)
_KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def widen(x) -> tl.tensor:
    """A float of any type as float32, denormals included."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, TYPE: tl.constexpr) -> tl.tensor:
    """A float32 rounded to nearest even as TYPE."""
    if TYPE == tl.bfloat16 and _ROUND_BFLOAT16_BY_HAND:
        word = x.to(tl.int32, bitcast=True).to(tl.int64)
        rounded = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
        kept = tl.where(x != x, 0x7FC0, rounded).to(tl.int16)
        return kept.to(tl.bfloat16, bitcast=True)
    else:
        return x.to(TYPE)


@triton.jit
def round_small(v) -> tl.tensor:
    """Rounds half to even where |v| < 2^22: the sum lies where floats are the whole numbers."""
    return (v + 12582912.0) - 12582912.0


@triton.jit
def smaller(a, b) -> tl.tensor:
    return tl.minimum(a, b, propagate_nan=_KEEP_NAN)


@triton.jit
def larger(a, b) -> tl.tensor:
    return tl.maximum(a, b, propagate_nan=_KEEP_NAN)


@triton.jit
def scale_of_step(step) -> tl.tensor:
    """One over a learned step, NaN where the step is not positive or has no finite inverse."""
    inverse = tl.div_rn(1.0, step)
    return tl.where((inverse > 0.0) & (inverse < float("inf")), inverse, float("nan"))


@triton.jit
def make_quantizer(lo, hi, levels, SCHEME: tl.constexpr) -> tuple[tl.tensor, ...]:
    """(lo, hi, scale, zero point, least code, largest code) of the range, widened to hold 0.

    Of a step, in the place of lo, and a zero point, where it is learned: lo and hi are integers.
    """
    if SCHEME == _LEARNED:
        n = (levels - 1).to(tl.float32)
        zero_point = hi + 0.0
        return zero_point, zero_point + n, scale_of_step(lo), zero_point, tl.zeros_like(n), n
    if SCHEME == _SYMMETRIC or SCHEME == _DISTILLER_SYMMETRIC:
        n = ((levels - 1) // 2).to(tl.float32)
        hi = larger(tl.abs(lo), tl.abs(hi))
        lo = -hi
        width = hi
        code_min = -n
    else:
        n = (levels - 1).to(tl.float32)
        lo = smaller(lo, 0.0) + 0.0
        hi = larger(hi, 0.0) + 0.0
        width = hi - lo
        code_min = tl.zeros_like(n)
    width = tl.where(width == 0.0, n, width)
    if SCHEME == _AFFINE or SCHEME == _SYMMETRIC:
        scale = tl.div_rn(n, width)
    else:
        scale = tl.div_rn(1.0, width) * n
    if SCHEME == _SYMMETRIC or SCHEME == _DISTILLER_SYMMETRIC:
        zero_point = tl.zeros_like(scale)
    else:
        zero_point = round_small(scale * lo) + 0.0
    return lo, hi, scale, zero_point, code_min, n


@triton.jit
def load_quantizer(ends, levels, SCHEME: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The quantizer of a range, or of a step and a zero point, ends [2]."""
    return make_quantizer(tl.load(ends), tl.load(ends + 1), levels, SCHEME)


@triton.jit
def is_inside(x, lo, hi, scale, SCHEME: tl.constexpr) -> tl.tensor:
    """Where a gradient passes: from lo to hi, strictly between them where the step is learned."""
    if SCHEME == _LEARNED:
        t = scale * x
        return (t > lo) & (t < hi)
    else:
        return (x >= lo) & (x <= hi)


@triton.jit
def quantize(x, scale, zero_point, code_min, code_max) -> tl.tensor:
    """The code of x, a whole number, or NaN where x is not finite: x * 0 is 0 for all else."""
    t = smaller(larger(scale * x - zero_point, code_min), code_max)
    return round_small(t) + x * 0.0


@triton.jit
def dequantize(code, scale, zero_point) -> tl.tensor:
    """The value of a code."""
    return tl.div_rn(code + zero_point, scale)


@triton.jit
def elements_of(byte) -> tl.tensor:
    """[BYTES, 8] indices of the elements whose flags the bytes hold."""
    return byte[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit
def gather_bits(flags) -> tl.tensor:
    """[BYTES, 8] flags, each 0 or 1, as bytes."""
    return tl.sum(flags.to(tl.int32) << tl.arange(0, 8)[None, :], axis=1).to(tl.uint8)


@triton.jit
def spread_bits(bytes) -> tl.tensor:
    """Bytes as [BYTES, 8] flags, each 0 or 1."""
    return (bytes.to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]) & 1


@triton.jit
def load_bit(bits, element, here) -> tl.tensor:
    """The bit of each element, 0 where it is not `here`."""
    byte = tl.load(bits + (element >> 3), mask=here, other=0).to(tl.int32)
    return (byte >> (element & 7).to(tl.int32)) & 1


@triton.jit
def keeps(mask, element, here) -> tl.tensor:
    """Which elements are `here` and have the bit 1 in the mask, unless that is None."""
    if mask is not None:
        return here & (load_bit(mask, element, here) != 0)
    else:
        return here


@triton.jit
def load_kept(x, element, here, kept) -> tl.tensor:
    """Elements as float32, 0 where they are not `kept`."""
    # A mask as irregular as `kept` would split a wide load into single elements.
    return tl.where(kept, widen(tl.load(x + element, mask=here, other=0.0)), 0.0)
