"""The quantizer's rules and level counts, as both the operators and the specification name them."""

import math
from enum import IntEnum
from fractions import Fraction
from functools import cache

MAX_LEVELS = 256
# Codes of activations of so many levels share a byte; beyond, each takes one.
HALF_BYTE_LEVELS = 16


class Scheme(IntEnum):
    """Which rule turns a range into a quantizer; the numbers are those of `csrc/include/quant.h`.

    AFFINE divides the levels by the width. The two Distiller rules multiply by a rounded
    reciprocal instead, which differs in the last bit; the symmetric one has its zero point at 0.
    SYMMETRIC divides, with the zero point at 0. Where a step is LEARNED, it and the zero point
    stand in the place of a range.
    """

    AFFINE = 0
    DISTILLER_AFFINE = 1
    DISTILLER_SYMMETRIC = 2
    SYMMETRIC = 3
    LEARNED = 4

    @property
    def is_symmetric(self) -> bool:
        """Whether as many levels lie below 0 as above."""
        return self in (Scheme.DISTILLER_SYMMETRIC, Scheme.SYMMETRIC)


class Function(IntEnum):
    """What follows a normalized convolution; the numbers are those of `csrc/include/function.h`."""

    IDENTITY = 0
    RELU = 1
    SWISH = 2
    SIGMOID = 3


# The largest group of codes is one byte, so that a group is unpacked by one table look-up.
MAX_GROUP_BITS = 8

_SCHEMES = tuple(int(scheme) for scheme in Scheme)


def levels_of_bits(bits: float) -> int:
    """Number of levels of a quantizer of `bits` bits, floor(2^bits); ValueError outside 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}, but a quantizer has 1 to 8 bits")
    return math.floor(2.0**bits)


def bits_of_levels(levels: int) -> float:
    """Bits of a quantizer of `levels` levels, log2(levels); ValueError outside 2 to 256.

    Rounded up where it must be, so that `levels_of_bits` gives the levels back.
    """
    if not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels is {levels}, but a quantizer has 2 to {MAX_LEVELS}")
    bits = math.log2(levels)
    while levels_of_bits(bits) < levels:
        bits = math.nextafter(bits, math.inf)
    return bits


@cache
def code_group(levels: int) -> tuple[int, int]:
    """How codes of `levels` levels are packed: (codes in a group, bits of a group).

    The group of at most eight bits with the fewest bits a code, of equal ones the smallest: one
    code in k bits for 2^k levels, three codes in 7 bits for 5. ValueError outside 2 to 256.
    """
    if not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels is {levels}, but packed codes have 2 to {MAX_LEVELS}")
    groups = ((size, (levels**size - 1).bit_length()) for size in range(1, MAX_GROUP_BITS + 1))
    fitting = [(size, bits) for size, bits in groups if bits <= MAX_GROUP_BITS]
    return min(fitting, key=lambda group: (Fraction(group[1], group[0]), group[0]))


def packed_bytes(numel: int, levels: int) -> int:
    """Bytes that hold `numel` packed codes of `levels` levels."""
    size, bits = code_group(levels)
    return (-(-numel // size) * bits + 7) // 8


def code_bytes(numel: int, levels: int) -> int:
    """Bytes that hold the codes of `numel` activations: half a byte each, or a whole one."""
    return (numel + 1) // 2 if levels <= HALF_BYTE_LEVELS else numel


def check_quantizer(levels: int, scheme: int) -> None:
    """Raises ValueError unless `levels` and `scheme` describe a quantizer."""
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme is {scheme}, which is none of {list(_SCHEMES)}")
    fewest = 3 if Scheme(scheme).is_symmetric else 2
    if not fewest <= levels <= MAX_LEVELS:
        name = Scheme(scheme).name
        raise ValueError(f"levels is {levels}, but {name} has {fewest} to {MAX_LEVELS}")
