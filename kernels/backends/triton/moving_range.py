"""The extremes of an activation, and the moving averages of them that are its range."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .quantizer import larger, smaller, widen

# Elements that a program reads at a time.
TILE = 2048
# Programs that share a tensor whose extremes are wanted: enough to fill a device, and few enough
# for one program to finish what they found.
MOST_PROGRAMS = 1024
# What moves the averages is one warp, so that none reads what another has already written.
ALONE = {"num_warps": 1}


@triton.jit
def _extremes_of_tile(lo, hi):
    """The least and the largest of two tiles, both NaN where the tiles hold one."""
    nan = tl.max((lo != lo).to(tl.int32)) > 0
    lo = tl.min(tl.where(lo != lo, float("inf"), lo))
    hi = tl.max(tl.where(hi != hi, float("-inf"), hi))
    return tl.where(nan, float("nan"), lo), tl.where(nan, float("nan"), hi)


@triton.jit
def reduce_partial(partial, count, MOST: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The extremes of partial [2, count], never minus zero."""
    i = tl.arange(0, MOST)
    lo = tl.load(partial + i, mask=i < count, other=float("inf"))
    hi = tl.load(partial + count + i, mask=i < count, other=float("-inf"))
    lo, hi = _extremes_of_tile(lo, hi)
    return lo + 0.0, hi + 0.0


@triton.jit
def _pair(lo, hi):
    return tl.where(tl.arange(0, 2) == 0, lo, hi)


@triton.jit
def _power(base, exponent):
    """base^exponent by repeated squaring in double precision, rounded once to float32."""
    square = base.to(tl.float64)
    result = tl.full((), 1.0, tl.float64)
    while exponent > 0:
        result = tl.where(exponent & 1 != 0, result * square, result)
        square = square * square
        exponent = exponent >> 1
    return result.to(tl.float32)


@triton.jit
def _move(found, ema, ends, step, decay):
    """One step of the averages of the extremes `found` [2], and the bias-corrected range."""
    i = tl.arange(0, 2)
    d = tl.full((), decay, tl.float32)
    count = tl.load(step) + 1
    average = d * tl.load(ema + i) + (1.0 - d) * (found + 0.0)
    tl.store(step, count)
    tl.store(ema + i, average)
    tl.store(ends + i, tl.div_rn(average, 1.0 - _power(d, count)))


@triton.jit
def store_extremes(partial, lo, hi) -> None:
    """Puts what this program found into partial [2, programs]."""
    lo, hi = _extremes_of_tile(lo, hi)
    tl.store(partial + tl.program_id(0), lo)
    tl.store(partial + tl.num_programs(0) + tl.program_id(0), hi)


@triton.jit
def extremes_kernel(x, step, partial, numel, FIRST_ONLY: tl.constexpr, TILE: tl.constexpr) -> None:
    """partial [2, programs]: extremes of x [numel]; with FIRST_ONLY nothing once step is not 0."""
    tiles = tl.cdiv(numel, TILE)
    if FIRST_ONLY:
        tiles = tl.where(tl.load(step) > 0, 0, tiles)
    lo = tl.full((TILE,), float("inf"), tl.float32)
    hi = tl.full((TILE,), float("-inf"), tl.float32)
    tile = tl.program_id(0).to(tl.int64)
    while tile < tiles:
        element = tile * TILE + tl.arange(0, TILE)
        here = element < numel
        v = widen(tl.load(x + element, mask=here, other=0.0))
        lo = smaller(lo, tl.where(here, v, float("inf")))
        hi = larger(hi, tl.where(here, v, float("-inf")))
        tile += tl.num_programs(0)
    store_extremes(partial, lo, hi)


@triton.jit
def reduce_extremes_kernel(partial, found, count, MOST: tl.constexpr) -> None:
    """found [2]: the extremes of partial [2, count]."""
    lo, hi = reduce_partial(partial, count, MOST)
    tl.store(found + tl.arange(0, 2), _pair(lo, hi))


@triton.jit
def update_range_kernel(partial, ema, ends, step, decay, count, MOST: tl.constexpr) -> None:
    """Moves the averages by the extremes of partial [2, count]."""
    lo, hi = reduce_partial(partial, count, MOST)
    _move(_pair(lo, hi), ema, ends, step, decay)


@triton.jit
def move_range_kernel(found, ema, ends, step, decay) -> None:
    """Moves the averages by the extremes found [2]."""
    _move(tl.load(found + tl.arange(0, 2)), ema, ends, step, decay)


def partial_extremes(x: Tensor) -> tuple[Tensor, int]:
    """Room for what the programs find, [2, programs], and how many programs there are."""
    programs = min(triton.cdiv(x.numel(), TILE), MOST_PROGRAMS)
    return x.new_empty((2, programs), dtype=torch.float32), programs


def find_extremes(x: Tensor, step: Tensor, first_only: bool) -> tuple[Tensor, int]:
    """Partial extremes of x, or nothing known once `step` is not 0 if `first_only`."""
    partial, programs = partial_extremes(x)
    launch(extremes_kernel, programs, x, step, partial, x.numel(), FIRST_ONLY=first_only, TILE=TILE)
    return partial, programs


def reduce_extremes(partial: Tensor, programs: int) -> Tensor:
    """The extremes [2] of partial [2, programs]."""
    found = partial.new_empty(2)
    launch(reduce_extremes_kernel, 1, partial, found, programs, MOST=MOST_PROGRAMS, **ALONE)
    return found


def update_range_(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages by the minimum and maximum of x, without waiting for the device."""
    partial, programs = find_extremes(x, step, first_only=False)
    operands = (partial, ema, range, step, decay, programs)
    launch(update_range_kernel, 1, *operands, MOST=MOST_PROGRAMS, **ALONE)


def move_range_(found: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """As `update_range_`, by extremes that are known."""
    launch(move_range_kernel, 1, found.contiguous(), ema, range, step, decay, **ALONE)
