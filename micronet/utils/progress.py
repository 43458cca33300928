"""Progress: a bar on a terminal, plain lines elsewhere; both say what the numbers are just now."""

from __future__ import annotations

import datetime
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
LINE_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Running:
    """An epoch so far: what its batches gave, and what is left of the run.

    ``loss`` and ``top1`` (per cent) are means over the epoch's batches; ``seconds_left`` is for
    the optimizer steps of all epochs to come, without their validation.
    """

    loss: float
    top1: float
    sparsity: float
    images_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        """Return one line."""
        left = datetime.timedelta(seconds=round(self.seconds_left))
        return (
            f"loss {self.loss:.4f}, top-1 {self.top1:.2f}, sparsity {100 * self.sparsity:.1f} %, "
            f"{self.images_per_second:,.0f} images/s, {memory() / 2**30:.2f} GiB, run {left} left"
        )


def memory() -> int:
    """Return the most bytes that this process has held: of the GPU where it uses one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def track(
    items: Iterable[T], total: int, label: str, now: Callable[[], Running | None]
) -> Iterator[T]:
    """Yield ``items``, whose number is ``total``, and show how far they are and what is ``now``."""
    if sys.stderr.isatty():
        return _bar(items, total, label, now, Console(stderr=True))
    return _lines(items, total, label, now)


def _bar(
    items: Iterable[T],
    total: int,
    label: str,
    now: Callable[[], Running | None],
    console: Console,
) -> Iterator[T]:
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar, said = Progress(*columns), Text()
    task = bar.add_task(label, total=total)
    # A line of its own, which a narrow terminal wraps instead of squeezing the bar.
    with Live(Group(bar, said), transient=True, console=console):
        for item in items:
            yield item
            bar.advance(task)
            said.plain = str(now() or "")


def _lines(
    items: Iterable[T], total: int, label: str, now: Callable[[], Running | None]
) -> Iterator[T]:
    printed = time.monotonic()
    for index, item in enumerate(items, 1):
        yield item
        if time.monotonic() - printed > LINE_EVERY_SECONDS:
            printed = time.monotonic()
            print(f"{label} step {index}/{total}: {now()}", flush=True)
