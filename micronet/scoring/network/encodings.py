"""How a tensor of weights is stored: dense, its non-zeros behind a bit mask, or kept blocks.

The challenge's rules charge a sparse tensor its non-zero values and one bit for each position, or
one bit for each block where whole blocks are zero; a tensor may also be stored dense. The cheapest
of these is billed, and named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Sides of the blocks that are tried. The area of one kernel is tried too, so that whole kernels
# may be dropped.
SIDES = (1, 2, 4, 8, 16)

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Blocks:
    """A matrix [out, fan-in] cut in ``rows`` x ``columns`` blocks, smaller at the far edges.

    A row holds kernel after kernel, or, channels last, position after position of a kernel.
    """

    rows: int
    columns: int
    count: int
    kept_values: int
    channels_last: bool = False

    def __str__(self) -> str:
        """Name the layout."""
        order = ", channels last" if self.channels_last else ""
        return f"{self.rows}x{self.columns} block mask{order}"


@dataclass(frozen=True)
class Layout:
    """A way to store a tensor: how many values, how many bits of mask, and of what blocks."""

    name: str
    values: int
    mask_bits: int
    blocks: Blocks | None = None


def code_bits(levels: int) -> int:
    """Return the bits of a code of so many levels, ``ceil(log2 L)``."""
    return (levels - 1).bit_length()


def cheapest(numel: int, nonzeros: int, blocks: tuple[Blocks, ...], bits: int) -> Layout:
    """Return the layout of fewest bits; of equal ones the first of dense, bit mask, blocks.

    Args:
        numel: of the tensor.
        nonzeros: values that are not zero.
        blocks: cuts into blocks, with what they keep.
        bits: of one stored value.
    """
    layouts = [Layout("dense", numel, 0), Layout("bit mask", nonzeros, numel)]
    layouts += [Layout(str(b), b.kept_values, b.count, b) for b in blocks]
    return min(layouts, key=lambda layout: layout.values * bits + layout.mask_bits)


def block_cuts(nonzero: Bools) -> tuple[Blocks, ...]:
    """Return the cuts into blocks of which at least one block is all zero.

    Args:
        nonzero: [out, in, ...], whether a weight is not zero.
    """
    outputs, kernel_area = len(nonzero), math.prod(nonzero.shape[2:])
    cuts = _cuts(nonzero.reshape(outputs, -1), sorted({*SIDES, kernel_area}), False)
    if kernel_area > 1 and nonzero.shape[1] > 1:
        # Blocks of one column are the same in either order.
        last = np.moveaxis(nonzero, 1, -1).reshape(outputs, -1)
        cuts += _cuts(last, SIDES[1:], True)
    return tuple(cuts)


def _cuts(nonzero: Bools, widths: Sequence[int], channels_last: bool) -> list[Blocks]:
    cuts = []
    for columns, transposed in _any_of_each(np.ascontiguousarray(nonzero.T), widths):
        for rows, kept in _any_of_each(np.ascontiguousarray(transposed.T), SIDES):
            if rows * columns > 1 and not kept.all():
                values = _values(kept, nonzero.shape, rows, columns)
                cuts.append(Blocks(rows, columns, kept.size, values, channels_last))
    return cuts


def _any_of_each(matrix: Bools, sizes: Sequence[int]) -> Iterator[tuple[int, Bools]]:
    """Yield for each size the logical or of every so many rows; the last rows may be fewer.

    Args:
        matrix: two dimensions.
        sizes: in rising order; one that a size before divides is made of the result for that.
    """
    known = {1: matrix}
    for size in sizes:
        source = max(one for one in known if size % one == 0)
        known[size] = _any_of(known[source], size // source)
        yield size, known[size]


def _any_of(matrix: Bools, size: int) -> Bools:
    if size == 1:
        return matrix
    result = matrix[0::size].copy()
    for offset in range(1, size):
        rows = matrix[offset::size]
        result[: len(rows)] |= rows
    return result


def _values(kept: Bools, shape: tuple[int, ...], rows: int, columns: int) -> int:
    """Count the values in kept blocks, of which those at the far edges are smaller."""
    low, narrow = -shape[0] % rows, -shape[1] % columns
    values = rows * columns * np.count_nonzero(kept)
    values -= low * columns * np.count_nonzero(kept[-1])
    values -= rows * narrow * np.count_nonzero(kept[:, -1])
    return int(values + low * narrow * bool(kept[-1, -1]))
