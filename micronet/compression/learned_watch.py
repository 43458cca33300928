"""Whether an optimizer has left learned steps and offsets what they must be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from micronet.quantization.faults import Learned
from micronet.utils.deferred import Deferred
from micronet.utils.errors import UserError

# So many steps of a device travel to the host together.
_TOGETHER = 8


class _Look(NamedTuple):
    """What was looked at after a step, and what it was after the first step that failed."""

    number: int
    learned: Learned
    kept: Tensor


class LearnedWatch:
    """Looks at learned steps and offsets after each step of an optimizer in somebody's loop.

    On the CPU at once. On a device it is decided there, so that the host need not wait, and found
    some steps later: by then every value that is computed is NaN, but the first bad step is known.

    One watches one epoch, in which a network has the same parameters: finding them takes longer
    than looking at them.
    """

    def __init__(self) -> None:
        self._learned: Learned | None = None
        self._results: Deferred[_Look] | None = None
        self._sound = self._kept = torch.empty(0)

    @torch.no_grad()
    def look(self, model: nn.Module, number: int) -> None:
        """Look at a network after step ``number``.

        Raises:
            UserError: a learned step is not positive and finite, or an offset is not finite.
        """
        if self._learned is None:
            self._learned = Learned.of(model)
        learned, now = self._learned, self._learned.together()
        if not now.numel():
            return
        if self._results is None:
            self._results = Deferred(_TOGETHER if now.is_cuda else 1)
            self._sound = torch.ones((), dtype=torch.bool, device=now.device)
            self._kept = now
        # Of the newest step, or of the first that failed.
        self._kept = torch.where(self._sound, now, self._kept)
        self._sound = self._sound & learned.are_sound(now)
        given = _Look(number, learned, self._kept)
        for look, (sound,) in self._results.add(given, self._sound[None].double()):
            if not sound:
                raise _error(look)


def _error(look: _Look) -> UserError:
    what, value, must = next(look.learned.with_values(look.kept.cpu()).faults())
    return UserError(
        f"{what} is {value} after step {look.number}, but must stay {must}: a lower rate of "
        "learned steps may help"
    )
