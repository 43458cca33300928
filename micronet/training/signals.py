"""Graceful stop on SIGINT or SIGTERM: finish the step, save a checkpoint, exit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

from micronet.utils import distributed

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training ended early, as a signal asked it to; ``last`` holds all that was done."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """While it is entered, Ctrl-C and SIGTERM are noted; a second Ctrl-C interrupts at once.

    Only a main thread can catch signals; in another one nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def watch(self, items: Iterable[T], meet_every: int = 1) -> Iterator[T]:
        """Yield ``items`` until a stop is asked for.

        Args:
            items: as many in each process.
            meet_every: number of items after which several processes, which wait for each other
                and for their devices then, tell each other of a stop.

        Raises:
            Stopped: it was.
        """
        for index, item in enumerate(items):
            # Every process hears of it, so that all stop after the same step.
            meets = not distributed.is_several() or index % meet_every == 0
            if meets and (signum := distributed.highest(self.signum or 0)):
                raise Stopped(signum)
            yield item
