"""Which convolutions keep no integers for the backward pass, which makes them again."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ..shapes import MOST_INT16, accumulator_bound
from .convolution import ConvCall, QuantizedInput

AUTO, NONE, DEPTHWISE, ALL = "auto", "none", "depthwise", "all"
RECOMPUTED = (AUTO, NONE, DEPTHWISE, ALL)

# Of this thread and what it starts, so that no other network sees it.
_chosen: contextvars.ContextVar[str] = contextvars.ContextVar("recomputed", default=AUTO)


@contextmanager
def recompute_in_backward(convolutions: str = ALL) -> Iterator[None]:
    """Let convolutions called inside the block keep no integers: their backward makes them anew.

    Of ``all`` convolutions, the ``depthwise`` ones, whose integers are many and soon made, or
    ``none``; outside such a block ``auto`` holds, of depthwise ones those whose integers take 32
    bits each. The same integers, so the same gradients, for the time of one more forward
    convolution. Raises ValueError for another word.
    """
    if convolutions not in RECOMPUTED:
        raise ValueError(f"convolutions is {convolutions!r}, but must be one of {RECOMPUTED}")
    before = _chosen.set(convolutions)
    try:
        yield
    finally:
        _chosen.reset(before)


def is_recomputed(x: QuantizedInput, w: Tensor, call: ConvCall) -> bool:
    """Whether a convolution that is called now makes its integers again."""
    chosen = _chosen.get()
    if chosen in (NONE, ALL):
        return chosen == ALL
    if not 1 < call.groups == x.size[1]:
        return False
    largest = accumulator_bound(w[0].numel(), call.levels, call.weight_levels)
    return chosen == DEPTHWISE or largest > MOST_INT16
