"""Fused multiply-add, exp, and the activation functions of `csrc/include/function.h`."""

import triton
import triton.language as tl

from ...scheme import Function
from .quantizer import larger, round_small, smaller

# Triton's interpreter multiplies and adds apart, which rounds twice.
_FMA_BY_HAND = tl.constexpr(triton.knobs.runtime.interpret)
_RELU = tl.constexpr(int(Function.RELU))
_SWISH = tl.constexpr(int(Function.SWISH))
_SIGMOID = tl.constexpr(int(Function.SIGMOID))


@triton.jit
def fma(a, b, c) -> tl.tensor:
    """a * b + c of float32, rounded once."""
    if _FMA_BY_HAND:
        return _fma_by_hand(a, b, c)
    else:
        return tl.fma(a, b, c)


@triton.jit
def _fma_by_hand(a, b, c):
    """In float64 rounded to odd, as in the reference, so that a second rounding does no harm."""
    product, addend = a.to(tl.float64) * b.to(tl.float64), c.to(tl.float64)
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    bits = total.to(tl.int64, bitcast=True)
    towards = tl.where((lost > 0) == (total > 0), 1, -1)
    keeps = (lost == 0) | ((bits & 1) == 1) | (total * 0.0 != 0.0)
    return tl.where(keeps, bits, bits + towards).to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def _power_of_two(n):
    """2^n for whole numbers in [-126, 127]; anything for NaN."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp(x) -> tl.tensor:
    """e^x within 2 ulp: Cephes' polynomial (Moshier) in the stated order of operations."""
    v = smaller(larger(x, -104.0), 89.0)
    n = round_small(v * 1.44269504088896341)
    r = fma(n, tl.full(n.shape, -0.693359375, tl.float32), v)
    r = fma(n, tl.full(n.shape, 2.12194440e-4, tl.float32), r)
    p = tl.full(n.shape, 1.9875691500e-4, tl.float32)
    p = fma(p, r, tl.full(n.shape, 1.3981999507e-3, tl.float32))
    p = fma(p, r, tl.full(n.shape, 8.3334519073e-3, tl.float32))
    p = fma(p, r, tl.full(n.shape, 4.1665795894e-2, tl.float32))
    p = fma(p, r, tl.full(n.shape, 1.6666665459e-1, tl.float32))
    p = fma(p, r, tl.full(n.shape, 5.0000001201e-1, tl.float32))
    p = fma(p, r * r, r) + 1.0
    half = round_small(n * 0.5)
    return (p * _power_of_two(half)) * _power_of_two(n - half)


@triton.jit
def sigmoid(z) -> tl.tensor:
    return tl.div_rn(1.0, 1.0 + exp(-z))


@triton.jit
def activate(z, FUNCTION: tl.constexpr) -> tl.tensor:
    """The activation function; ReLU keeps NaN."""
    if FUNCTION == _RELU:
        return tl.where(z < 0.0, 0.0, z)
    elif FUNCTION == _SWISH:
        return tl.div_rn(z, 1.0 + exp(-z))
    elif FUNCTION == _SIGMOID:
        return sigmoid(z)
    else:
        return z


@triton.jit
def through(grad, z, FUNCTION: tl.constexpr) -> tl.tensor:
    """A gradient through the function; ReLU chooses, so that no infinity turns into NaN."""
    if FUNCTION == _RELU:
        return tl.where(z <= 0.0, 0.0, grad)
    elif FUNCTION == _SWISH:
        s = sigmoid(z)
        return grad * (s * (1.0 + z * (1.0 - s)))
    elif FUNCTION == _SIGMOID:
        s = sigmoid(z)
        return grad * (s * (1.0 - s))
    else:
        return grad
