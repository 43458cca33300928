"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
LINE_EVERY_SECONDS = 60.0


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items`` and show how far they are; ``total`` is their number."""
    return _bar(items, total, label) if sys.stderr.isatty() else _lines(items, total, label)


def _bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task)


def _lines(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    printed = time.monotonic()
    for index, item in enumerate(items, 1):
        yield item
        if time.monotonic() - printed > LINE_EVERY_SECONDS:
            printed = time.monotonic()
            print(f"{label} step {index}/{total}", flush=True)
