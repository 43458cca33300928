"""The walk's records of poolings: how many elements their windows read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from micronet.scoring.operations.records import Pool

# By the dispatched operator: what it takes of a window, and elements that its windows read.
_Reads = Callable[[dict[str, Any], Tensor, Tensor], int]


def _whole(args: dict[str, Any], inputs: Tensor, output: Tensor) -> int:
    return inputs.numel()


def _windows(args: dict[str, Any], inputs: Tensor, output: Tensor) -> int:
    """Count windows of one size; padding included."""
    sides = args["kernel_size"]
    return output.numel() * int(sides[0]) * int(sides[-1])


def _adaptive(args: dict[str, Any], inputs: Tensor, output: Tensor) -> int:
    """Count the elements of windows [i*h // n, ceil((i+1)*h / n)) for i < n."""
    planes = output.shape[:-2].numel()
    rows, columns = (
        sum(-(-(i + 1) * size // n) - i * size // n for i in range(n))
        for size, n in zip(inputs.shape[-2:], output.shape[-2:], strict=True)
    )
    return planes * rows * columns


POOLS: dict[str, tuple[str, _Reads]] = {
    "mean": ("average", _whole),
    "avg_pool2d": ("average", _windows),
    "_adaptive_avg_pool2d": ("average", _adaptive),
    "amax": ("maximum", _whole),
    "max_pool2d_with_indices": ("maximum", _windows),
    "adaptive_max_pool2d": ("maximum", _adaptive),
}
# They read all of some dimensions, and may leave them out.
REDUCTIONS = frozenset(["mean", "amax"])


def pool(
    where: str, operator: str, args: dict[str, Any], output: Tensor, each: Callable[[int], int]
) -> Pool:
    """Return the record of a pooling.

    Args:
        where: the module.
        operator: a key of ``POOLS``.
        args: the operator's arguments by name.
        output: what it returns.
        each: divides a number of elements by the images of the batch.
    """
    function, reads = POOLS[operator]
    inputs: Tensor = args["self"]
    read = reads(args, inputs, output)
    return Pool(where, function, each(inputs.numel()), each(output.numel()), each(read))
