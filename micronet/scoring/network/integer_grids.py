"""The integers behind quantized weights: which whole multiples of a step the values of a row are.

A quantizer of L levels leaves in each output channel at most L values, whole multiples of one step
with zero among the possible ones, at most L - 1 steps apart (``i / S`` with ``0 <= i - zp < L``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Values = NDArray[np.float64]


class OffGridError(ValueError):
    """Values that no quantizer of so many levels leaves; ``row`` is the first such row."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} is on no grid")
        self.row = row


def integers_of(values: Values, levels: int, epsilon: float) -> Integers:
    """Return per row integers q with ``values = q * step``, the step as large as possible.

    Args:
        values: [rows, columns], each row with a step of its own.
        levels: L, at least 2.
        epsilon: relative rounding error of one value, that of the type that it is stored in.

    Raises:
        OffGridError: a row has no step that makes its values integers less than L apart, zero
            being one of them.
    """
    integers = np.zeros(values.shape, dtype=np.int64)
    span, gap = _spans_and_gaps(values, epsilon)
    open_rows = np.flatnonzero(span > 0)
    # The smallest gap may itself be several steps: codes 0, 2 and 5 leave gaps of 2 and 3.
    for steps_in_gap in range(1, levels):
        if open_rows.size == 0:
            break
        fitted, found = _fit(
            values[open_rows], span[open_rows], gap[open_rows] / steps_in_gap, levels, epsilon
        )
        integers[open_rows[found]] = fitted[found]
        open_rows = open_rows[~found]
    if open_rows.size:
        raise OffGridError(int(open_rows[0]))
    return integers


def integers_at(values: Values, steps: Values, levels: int, epsilon: float) -> Integers:
    """Return per row integers q with ``values = q * step`` for known steps.

    Args:
        values: [rows, columns].
        steps: [rows], positive.
        levels: L, at least 2.
        epsilon: relative rounding error of one value.

    Raises:
        OffGridError: a row has a value that is no multiple of its step, or values L steps apart.
    """
    scaled = values / steps[:, None]
    integers = np.rint(scaled)
    # In place: of a large layer each array that is made anew takes as long as what is done to it.
    scaled -= integers
    off = np.abs(scaled, out=scaled).max(axis=1, initial=0) > 4 * levels * epsilon
    wide = integers.max(axis=1, initial=0) - integers.min(axis=1, initial=0) >= levels
    if (off | wide).any():
        raise OffGridError(int(np.argmax(off | wide)))
    return integers.astype(np.int64)


def _spans_and_gaps(values: Values, epsilon: float) -> tuple[Values, Values]:
    """Return of each row, zero added, the whole span and the smallest gap between two values."""
    ordered = np.sort(np.pad(values, ((0, 0), (0, 1))), axis=1)
    span = ordered[:, -1] - ordered[:, 0]
    gaps = np.diff(ordered, axis=1)
    # Two roundings of one value are no gap; real ones are 1/255 of the span and more.
    gaps[gaps <= 8 * epsilon * span[:, None]] = np.inf
    return span, gaps.min(axis=1)


def _fit(
    values: Values, span: Values, step: Values, levels: int, epsilon: float
) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the integers at a step near ``step``, and of which rows they are the values."""
    steps = np.maximum(np.rint(span / step), 1)
    # Measured over the whole span the step is as exact as one value.
    scaled = values / (span / steps)[:, None]
    integers = np.rint(scaled)
    # The step is wrong by at most 2 epsilon in proportion, each value by epsilon, L times over.
    off = np.abs(scaled - integers).max(axis=1)
    return integers.astype(np.int64), (steps < levels) & (off <= 4 * levels * epsilon)
