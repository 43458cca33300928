"""The numbers of windows: kernel, stride, padding, dilation."""

from __future__ import annotations

from typing import Any

MOST_SIZE = 2**16


class TopologyError(ValueError):
    """What is wrong with a node, in words."""


def check_geometry(
    kernel: Any, stride: Any, padding: Any, dilation: Any, sides: int = 2
) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of windows, padding being of ``sides`` numbers.

    Raises:
        TopologyError: one is missing, too many, negative or huge.
    """
    for name, numbers, least, count in (
        ("kernel", kernel, 1, 2),
        ("stride", stride, 1, 2),
        ("padding", padding, 0, sides),
        ("dilation", dilation, 1, 2),
    ):
        is_whole = numbers is not None and len(numbers) == count
        if not is_whole or not all(least <= n <= MOST_SIZE for n in numbers):
            raise TopologyError(f"{name} is {numbers}, but must be {count} numbers from {least} on")
    return kernel, stride, padding, dilation
