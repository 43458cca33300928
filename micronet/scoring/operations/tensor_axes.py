"""Where the elements of a tensor come from: its axes through reshapes, permutations and slices.

Each dimension is a list of runs, positions ``start + i * step`` of an axis. A reshape splits and
merges runs, a permutation reorders dimensions, a slice shortens a run. A dimension whose runs of
one axis stand in another order than on the axis has been shuffled, however that was spelled.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

_ids = itertools.count()


@dataclass(frozen=True)
class Run:
    """``size`` positions ``start + i * step`` of an axis.

    ``stacked`` marks the axis that a stack of tensors adds: its place is before any other, where
    it means that the tensors stand one after another. What a reshape splits from a batch is one.
    """

    axis: int
    size: int
    step: int = 1
    start: int = 0
    stacked: bool = False
    is_batch: bool = False


Dim = tuple[Run, ...]


@dataclass(frozen=True)
class Axes:
    """The runs of every dimension, and of dimensions of one position that were taken away."""

    dims: tuple[Dim, ...]
    taken: Dim = ()


def fresh(size: int, stacked: bool = False) -> Dim:
    """Return a dimension of its own axis."""
    return (Run(next(_ids), size, stacked=stacked),) if size > 1 else ()


def of_shape(shape: Sequence[int]) -> Axes:
    """Return the axes of a tensor whose elements are computed and not moved, a batch's first."""
    dims = [fresh(size) for size in shape]
    dims[:1] = [tuple(dataclasses.replace(run, is_batch=True) for run in dim) for dim in dims[:1]]
    return Axes(tuple(dims))


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """Return the axes of a reshaped tensor, new ones where they do not line up."""
    if [prod(run.size for run in dim) for dim in axes.dims] == list(shape):
        return axes
    dims = _regroup([run for dim in axes.dims for run in dim if run.size > 1], shape)
    return of_shape(shape) if dims is None else Axes(tuple(dims), axes.taken)


def settle(before: Axes, after: Axes) -> tuple[Axes, int]:
    """Return the axes of a reshape's result and how many positions the reshape shuffles.

    A shuffled dimension counts as a new axis from there on.
    """
    known = {run.axis for dim in before.dims for run in dim}
    if known.isdisjoint(run.axis for dim in after.dims for run in dim):
        return after, _shuffled([run for dim in before.dims for run in dim])
    shuffled = [_shuffled(dim) for dim in after.dims]
    if not any(shuffled):
        return after, 0
    dims = (
        fresh(prod(run.size for run in dim)) if number else dim
        for dim, number in zip(after.dims, shuffled, strict=True)
    )
    return Axes(tuple(dims), after.taken), prod(number or 1 for number in shuffled)


def is_shuffled(axes: Axes) -> bool:
    """Whether a reshape that keeps the order of dimensions could shuffle positions."""
    return bool(_shuffled([run for dim in axes.dims for run in dim]))


def _regroup(runs: list[Run], shape: Sequence[int]) -> list[Dim] | None:
    """Return runs by dimension of ``shape``, None where its borders cut through a run."""
    waiting, dims = runs[::-1], []
    for size in shape:
        dim: list[Run] = []
        while size > 1:
            run = waiting.pop()
            if run.size % size == 0 and run.size > size:
                inner = run.size // size
                stacked = run.stacked or run.is_batch
                waiting.append(Run(run.axis, inner, run.step, stacked=stacked))
                run = dataclasses.replace(run, size=size, step=run.step * inner)
            elif size % run.size:
                return None
            dim.append(run)
            size //= run.size
        dims.append(_fuse(dim))
    return dims


def _fuse(dim: Sequence[Run]) -> Dim:
    """Join neighbors that are one run split in two."""
    fused: list[Run] = []
    for run in dim:
        last = fused[-1] if fused else None
        if last and last.axis == run.axis and last.step == run.step * run.size:
            size, start = last.size * run.size, last.start + run.start
            fused[-1] = dataclasses.replace(last, size=size, step=run.step, start=start)
        else:
            fused.append(run)
    return tuple(fused)


def _shuffled(dim: Sequence[Run]) -> int:
    """Return how many positions of a dimension are in another order than on their axis."""
    within = [run for run in dim if not run.is_batch]
    ahead = next((i for i, run in enumerate(within) if not run.stacked), len(within))
    behind = [i for i, run in enumerate(within) if run.stacked and i > ahead]
    if behind:
        return prod(run.size for run in within[: behind[-1] + 1])
    shuffled = []
    for axis in {run.axis for run in dim}:
        runs = [run for run in dim if run.axis == axis]
        if any(a.step < b.step for a, b in itertools.pairwise(runs)):
            shuffled.append(prod(run.size for run in runs))
    return prod(shuffled) if shuffled else 0


def permute(axes: Axes, order: Sequence[int]) -> Axes:
    """Return the axes with dimensions in another order."""
    return dataclasses.replace(axes, dims=tuple(axes.dims[d] for d in order))


def keep(axes: Axes, dims: Collection[int], shape: Sequence[int]) -> Axes:
    """Return the axes where only some dimensions keep their elements' order."""
    found = (axes.dims[d] if d in dims else fresh(size) for d, size in enumerate(shape))
    return Axes(tuple(found), axes.taken)


def cut(axes: Axes, dim: int, start: int, size: int, step: int = 1) -> Axes:
    """Return the axes of a slice along one dimension."""
    runs = axes.dims[dim]
    if len(runs) == 1:
        run = runs[0]
        start = run.start + run.step * start
        runs = (dataclasses.replace(run, size=size, step=run.step * step, start=start),)
    elif prod(run.size for run in runs) != size:
        runs = fresh(size)
    return dataclasses.replace(axes, dims=(*axes.dims[:dim], runs, *axes.dims[dim + 1 :]))


def squeeze(axes: Axes, dims: Sequence[int]) -> Axes:
    """Return the axes without dimensions of one position.

    What is left of their axes elsewhere begins at that position.
    """
    taken = [run for d in dims for run in axes.dims[d]]
    offsets = {run.axis: run.start for run in taken}
    left = [
        tuple(dataclasses.replace(r, start=r.start + offsets.pop(r.axis, 0)) for r in dim)
        for d, dim in enumerate(axes.dims)
        if d not in dims
    ]
    return Axes(tuple(left), (*axes.taken, *taken))


def unsqueeze(axes: Axes, dim: int) -> Axes:
    """Return the axes with a dimension of one position, the last that was taken away if any."""
    runs = axes.taken[-1:]
    return Axes((*axes.dims[:dim], runs, *axes.dims[dim:]), axes.taken[:-1])


def concatenate(pieces: Sequence[Axes], dim: int, sizes: Sequence[int]) -> tuple[Axes, int]:
    """Return the axes of tensors one after another and how many positions stand in a new order."""
    runs = [piece.dims[dim] for piece in pieces]
    joined = fresh(sum(sizes), stacked=not any(runs) and len(pieces) > 1)
    shuffled = 0
    for axis in {run[0].axis for run in runs if len(run) == 1}:
        positions = _positions(runs, axis)
        if not in_order(positions):
            shuffled += len(set(positions))
        elif all(len(run) == 1 and run[0].axis == axis for run in runs):
            joined = _progression(axis, positions) or joined
    first = pieces[0]
    return Axes((*first.dims[:dim], joined, *first.dims[dim + 1 :]), first.taken), shuffled


def in_order(positions: Sequence[int]) -> bool:
    """Whether positions stand in their order somewhere, beside which some may be repeated."""
    left = iter(positions)
    return all(position in left for position in sorted(set(positions)))


def reduce(axes: Axes, dims: Collection[int], keeps_dims: bool) -> Axes:
    """Return the axes without the positions of some dimensions."""
    kept = ((d, () if d in dims else dim) for d, dim in enumerate(axes.dims))
    return Axes(tuple(dim for d, dim in kept if keeps_dims or d not in dims), axes.taken)


def _positions(runs: Sequence[Dim], axis: int) -> list[int]:
    mine = [dim[0] for dim in runs if len(dim) == 1 and dim[0].axis == axis]
    return [run.start + i * run.step for run in mine for i in range(run.size)]


def _progression(axis: int, positions: list[int]) -> Dim:
    """Return the run of positions at equal distances, nothing where they are not."""
    steps = {b - a for a, b in itertools.pairwise(positions)}
    if len(steps) != 1 or min(steps) <= 0:
        return ()
    return (Run(axis, len(positions), steps.pop(), positions[0]),)
