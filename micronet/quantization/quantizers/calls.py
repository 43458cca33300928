"""Which call of a quantizer a backward pass makes again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

import micronet_kernels as kernels

# Calls of one layer between two steps that gradient checkpointing can tell apart: a head that all
# levels of a detector share has five or six, accumulated gradients as many more for each batch.
_MOST = 64


@dataclass
class _Call:
    """A call in training: the input's extremes [2], the range [2] that it was rounded by."""

    found: Tensor
    range: Tensor
    again: Tensor | None = None  # bool scalar: whether it has been made again, which few are


class Calls:
    """The last calls in training, on their device; nothing waits for it.

    A call that is made again is known by its input's extremes, whose bits are those of the first
    time. Of calls with the same extremes the latest is made again first, as backward passes go.
    """

    def __init__(self) -> None:
        self._last: deque[_Call] = deque(maxlen=_MOST)

    def add(self, found: Tensor, range: Tensor) -> None:
        """Remember a call by its input's extremes, and the range as it is now."""
        if kernels.is_eager(found, range):  # not what a tracer looks at, which has no backward pass
            self._last.append(_Call(found, range.clone()))

    def range_of(self, found: Tensor, otherwise: Tensor) -> Tensor:
        """Return the range [2] of the call that had these extremes, of the last one if none had.

        Args:
            found: the extremes [2] of the input that is there again.
            otherwise: the range where no call is known.
        """
        calls = [call for call in self._last if call.found.device == found.device]
        if not calls or not kernels.is_eager(found, otherwise):
            return otherwise
        order = torch.arange(len(calls), device=found.device)
        never = torch.zeros((), dtype=torch.bool, device=found.device)
        again = torch.stack([never if call.again is None else call.again for call in calls])
        same = (torch.stack([call.found for call in calls]) == found).all(1)
        chosen = (order + len(calls) * (same.long() + (same & ~again).long())).argmax()
        for call, now in zip(calls, again | (order == chosen), strict=True):
            call.again = now
        return torch.stack([call.range for call in calls]).index_select(0, chosen.view(1))[0]
