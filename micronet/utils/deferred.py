"""What steps gave, read some steps later, when the device has long computed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Deferred(Generic[T]):
    """Hands rows of numbers over on the host, in order, without making it wait for the device.

    Rows travel together, ``every`` of them at a time, while the device computes the next ones.

    Args:
        every: number of rows; 1 hands each over at once.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._rows: list[tuple[T, Tensor]] = []
        self._transfers: list[_Transfer[T]] = []

    def add(self, given: T, row: Tensor) -> Iterator[tuple[T, list[float]]]:
        """Take a row on the device, float64 (n,); return what has arrived, with what was given."""
        self._rows.append((given, row))
        if len(self._rows) < self._every:
            return iter(())
        self._send()
        return self._arrived(under_way=0 if self._every == 1 else 1)

    def flush(self) -> Iterator[tuple[T, list[float]]]:
        """Return all that has not been returned yet, waiting for it."""
        if self._rows:
            self._send()
        return self._arrived(under_way=0)

    def _send(self) -> None:
        self._transfers.append(_Transfer(self._rows))
        self._rows = []

    def _arrived(self, under_way: int) -> Iterator[tuple[T, list[float]]]:
        while len(self._transfers) > under_way:
            transfer = self._transfers.pop(0)
            yield from zip(transfer.given, transfer.rows(), strict=True)


class _Transfer(Generic[T]):
    """Rows on their way to the host."""

    def __init__(self, rows: list[tuple[T, Tensor]]) -> None:
        self.given = [given for given, _ in rows]
        together = torch.stack([row for _, row in rows])
        self._event = torch.cuda.Event() if together.is_cuda else None
        self._host = together
        if self._event is not None:
            self._host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
            self._host.copy_(together, non_blocking=True)
            self._event.record()

    def rows(self) -> list[list[float]]:
        """Return the rows, waiting for them if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        found: list[list[float]] = self._host.tolist()
        return found
