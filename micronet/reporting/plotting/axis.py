"""Where the ticks of an axis are, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
    """Return the text of a tick among others; very large or small ones are powers of ten."""
    largest = max(abs(tick) for tick in of)
    if largest >= 1e6 or 0 < largest < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.10g}"
