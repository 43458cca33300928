"""The quantiser's rules and level counts, as both the operators and the specification name them."""

import math
from enum import IntEnum

MAX_LEVELS = 256


class Scheme(IntEnum):
    """Which rule turns a range into a quantiser; the numbers are those of `csrc/quant.h`.

    AFFINE divides the levels by the width. The two Distiller rules multiply by a rounded
    reciprocal instead, which differs in the last bit; the symmetric one has its zero point at 0.
    """

    AFFINE = 0
    DISTILLER_AFFINE = 1
    DISTILLER_SYMMETRIC = 2


_SCHEMES = tuple(int(scheme) for scheme in Scheme)


def levels_of_bits(bits: float) -> int:
    """Number of levels of a quantiser of `bits` bits, floor(2^bits); ValueError outside 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}, but a quantiser has 1 to 8 bits")
    return math.floor(2.0**bits)


def check_quantiser(levels: int, scheme: int) -> None:
    """Raises ValueError unless `levels` and `scheme` describe a quantiser."""
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme is {scheme}, which is none of {list(_SCHEMES)}")
    fewest = 3 if scheme == Scheme.DISTILLER_SYMMETRIC else 2
    if not fewest <= levels <= MAX_LEVELS:
        name = Scheme(scheme).name
        raise ValueError(f"levels is {levels}, but {name} has {fewest} to {MAX_LEVELS}")
