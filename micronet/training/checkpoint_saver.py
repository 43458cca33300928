"""When a run's checkpoints are written, which are kept, and which one a resumed run starts from."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from micronet.runs import checkpoint
from micronet.runs.checkpoint import Checkpoint
from micronet.runs.directory import RunDirectory
from micronet.training.state import State, pack
from micronet.training.tensorboard import Events
from micronet.utils.errors import UserError

_EVERY = re.compile(r"([1-9][0-9]*)([sm]?)")


@dataclass(frozen=True)
class Every:
    """How often ``last`` is written within an epoch: after some steps, or some seconds."""

    steps: int | None = None
    seconds: float | None = None


def parse_every(text: str) -> Every:
    """Read ``500`` (steps), ``90s`` or ``10m``.

    Raises:
        ValueError: it is none of these.
    """
    found = _EVERY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is neither a number of steps nor a time such as 90s or 10m")
    count, unit = int(found[1]), found[2]
    return Every(steps=count) if not unit else Every(seconds=count * (60.0 if unit == "m" else 1.0))


class CheckpointSaver:
    """Writes a run's checkpoints: ``last``, ``best``, and the newest few of whole epochs.

    Args:
        run: where they go.
        meta: what their headers say of the network and its data.
        every: how often within an epoch; None writes at the end of epochs only.
        keep: how many epochs' checkpoints stay beside ``last`` and ``best``.
        writes: whether this process is the one that writes.
        events: for TensorBoard, where that is asked for.
    """

    def __init__(
        self,
        run: RunDirectory,
        meta: Mapping[str, Any],
        every: Every | None = None,
        keep: int = 0,
        writes: bool = True,
        events: Events | None = None,
    ) -> None:
        self.run, self.meta, self.keep, self.writes = run, meta, keep, writes
        self._every, self._events = every or Every(), events
        self._written = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether ``last`` is to be written after ``step`` steps of an epoch."""
        if self._every.steps is not None:
            return step % self._every.steps == 0
        seconds = self._every.seconds
        return seconds is not None and time.monotonic() - self._written >= seconds

    def step(self, step: int, loss: float, rate: float) -> None:
        """Note an optimizer step, counted from 1 over the whole run."""
        if self._events is not None:
            self._events.step(step, loss, rate)

    def record(self, now: State, step: int) -> None:
        """Add the record of the epoch that ended with ``step`` to the log.

        Raises:
            UserError: it cannot be written; the log is as it was.
        """
        if self.writes:
            self.run.record(now.metrics)
        if self._events is not None:
            self._events.epoch(step, now.metrics, now.model)

    def last_good(self) -> str:
        """Return the end of a message that says where to go on from, or nothing."""
        last = self.run.last
        return f"; the last good checkpoint is {str(last)!r}" if last.exists() else ""

    def save_last(self, now: State) -> None:
        """Write ``last``.

        Raises:
            UserError: it cannot be written; the previous one is intact.
        """
        if self.writes:
            checkpoint.save(self.run.last, *pack(now, self.meta))
        self._written = time.monotonic()

    def save_epoch(self, now: State, improved: bool) -> None:
        """Write the checkpoints of an epoch that has just ended.

        Raises:
            UserError: one cannot be written; the previous ones are intact.
        """
        if self.writes:
            tensors, header = pack(now, self.meta)
            if improved:
                checkpoint.save(self.run.best, tensors, header)
            if self.keep:
                checkpoint.save(self.run.of_epoch(now.epoch), tensors, header)
            # Last comes last: a stop before it repeats this epoch and writes the same again.
            checkpoint.save(self.run.last, tensors, header)
            self._remove_old()
        self._written = time.monotonic()

    def _remove_old(self) -> None:
        kept = self.run.kept_epochs()
        for path in kept[: max(len(kept) - self.keep, 0)] if self.keep else []:
            checkpoint.remove(path)


def to_continue_from(run: RunDirectory) -> Checkpoint | None:
    """Return the newest checkpoint of a run that is whole, or None before its first.

    Says so when a damaged one is passed over: what came after the one before is trained again.

    Raises:
        UserError: there are checkpoints, and every one of them is damaged.
    """
    candidates = [path for path in (run.last, *reversed(run.kept_epochs())) if path.exists()]
    problems = []
    for path in candidates:
        try:
            found = checkpoint.load(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"{problems[0]}; continuing from {str(path)!r}", flush=True)
        return found
    if problems:
        raise UserError(f"{problems[0]}; the run has no older checkpoint to continue from")
    return None
