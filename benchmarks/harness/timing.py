"""Interleaved timing: every step once a round, so that all of them meet the same machine."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

Step = Callable[[], object]
ROUNDS, WARMUP = 11, 2


@dataclass(frozen=True)
class Times:
    """What the rounds of one step took, in seconds."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, samples: list[float]) -> "Times":
        """Summarize at least two samples; the percentiles are interpolated between samples."""
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return cls(statistics.median(samples), tenths[0], tenths[-1])

    def shared(self, runs: int) -> "Times":
        """Return the times of one of so many runs that each sample holds."""
        return Times(self.median / runs, self.p10 / runs, self.p90 / runs)


def interleave(
    steps: Mapping[str, Step],
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    wait: Callable[[], object] = lambda: None,
    repeats: int = 1,
) -> dict[str, Times]:
    """Run all steps in turn, `warmup` rounds untimed and then `rounds` timed ones.

    `wait` returns once the device has finished: without it a timer of a GPU measures launches.
    A sample is the mean of `repeats` runs that share one wait, for steps as short as a wait.
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    with collector_off():
        for number in range(warmup + rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                for _ in range(repeats):
                    step()
                wait()
                took = (time.perf_counter() - start) / repeats
                if number >= warmup:
                    samples[name].append(took)
    return {name: Times.of(taken) for name, taken in samples.items()}


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector out of the block; what is garbage already goes first."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
