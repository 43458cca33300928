"""Where the ticks of an axis are, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The difference of an axis's ends, as a share of the larger one.
_LEAST_SPREAD = 1e-3


def ticks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``: the ends of the axis too.

    They are 1, 2 or 5 times a power of ten apart; on a logarithmic axis they are such numbers
    themselves, or the powers alone where it is long.
    """
    if logarithmic:
        return _logarithmic(low, high)
    if not high > low:
        spread = abs(low) / 2 or 0.5
        low, high = low - spread, high + spread
    # Ends that are nearly one number would take labels of more digits than there is room for.
    lacking = max(_LEAST_SPREAD * max(abs(low), abs(high)) - (high - low), 0.0)
    low, high = low - lacking / 2, high + lacking / 2
    step = _round_up((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _logarithmic(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high)) + 1
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = 1 if len(factors) > 1 else math.ceil((last - first) / 6)
    found = [f * 10.0**power for power in range(first, last + every, every) for f in factors]
    start = max(i for i, tick in enumerate(found) if tick <= low * (1 + 1e-9))
    end = next(i for i, tick in enumerate(found) if tick >= high * (1 - 1e-9) and i > start)
    return found[start : end + 1]


def _round_up(step: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def label(value: float, of: Sequence[float]) -> str:
    """Return the text of a tick among others; very large or small ones are powers of ten.

    It has as many digits as tell the ticks apart, at least three.
    """
    largest = max(map(abs, of))
    if largest >= 1e6 or 0 < largest < 1e-3:
        texts = ({_scientific(tick, digits) for tick in of} for digits in range(2, 17))
        digits = next(n for n, found in enumerate(texts, 2) if len(found) == len(set(of)))
        return _scientific(value, digits)
    return f"{value:,.10g}"


def _scientific(value: float, decimals: int) -> str:
    mantissa, power = f"{value:.{decimals}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}" if value else "0"
