"""Sums over sixteen lanes in a fixed order, which `tl.sum` does not promise."""

import triton
import triton.language as tl

LANES = 16


@triton.jit
def _add_halves(lanes, HALF: tl.constexpr, COLUMNS: tl.constexpr):
    low, high = tl.split(tl.permute(tl.reshape(lanes, (2, HALF, COLUMNS)), (1, 2, 0)))
    return low + high


@triton.jit
def sum_lanes(lanes, COLUMNS: tl.constexpr) -> tl.tensor:
    """The sums [COLUMNS] of lanes [16, COLUMNS]: 8 + 8, 4 + 4, 2 + 2, 1 + 1."""
    for i in tl.static_range(4):
        lanes = _add_halves(lanes, 8 >> i, COLUMNS)
    return tl.reshape(lanes, (COLUMNS,))
