"""Where the time of a run goes: the engine's steps, and LiteRT's operators beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

_TITLE = re.compile(r"nodes\[(\d+)\] \((\w+)\) ?(.*)")
# XNNPACK's names of what has weights, in the order of the network.
_WEIGHTED = ("Convolution", "Fully Connected")
# XNNPACK has no name for the table that stands for a swish or a sigmoid of bytes.
_NAMED = {"Invalid Unary Op": "Unary Op by table"}


@dataclass(frozen=True)
class Step:
    """One step of a run, of ours or of a peer."""

    title: str
    kind: str
    microseconds: float
    multiply_adds: int = 0  # for one image, zeros among them

    @property
    def gmac_per_s(self) -> float | None:
        """Multiply-adds in 10^9 a second; None where there are none or no time was measured."""
        if not self.multiply_adds or not self.microseconds:
            return None
        return self.multiply_adds / self.microseconds / 1e3


def middle(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return of each column the mean of the middle half of its runs.

    Other work takes the core for milliseconds at a time, which few steps of few runs meet; what is
    told in whole microseconds gets a finer mean than median.
    """
    found = []
    for column in zip(*runs, strict=True):
        cut = len(column) // 4
        found.append(fmean(sorted(column)[cut : len(column) - cut]))
    return found


# Ours -------------------------------------------------------------------------------------------


def differences(cumulative: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the times of single runs from those that were added up to each."""
    before = [[0.0] * len(cumulative[0]), *cumulative[:-1]]
    return [
        [later - earlier for earlier, later in zip(old, new, strict=True)]
        for old, new in zip(before, cumulative, strict=True)
    ]


def our_step(title: str, microseconds: float, macs: Mapping[str, int], stem: str) -> Step:
    """Return a step by its title, such as ``nodes[4] (conv) _blocks.0._depthwise_conv``.

    Raises ValueError where a title has another form.
    """
    found = _TITLE.fullmatch(title)
    if found is None:
        raise ValueError(f"the engine's step {title!r} is not of the form nodes[N] (kind) name")
    kind, names = found[2], found[3].split()
    done = sum(macs.get(name, 0) for name in names)
    if done:
        kind = kind_of_layer(names[0], kind, stem)
    return Step(title, kind, microseconds, done)


def kind_of_layer(name: str, kind: str, stem: str) -> str:
    """Return what a layer is called in the table by kinds."""
    if kind != "conv":
        return kind
    if name == stem:
        return "stem"
    return "depthwise conv" if "depthwise" in name else "other conv"


def our_steps(
    titles: Sequence[str], runs: Sequence[Sequence[float]], macs: Mapping[str, int]
) -> list[Step]:
    """Return the steps from the seconds that each had in each run."""
    stem = next(iter(macs))
    times = middle(runs)
    return [
        our_step(title, 1e6 * seconds, macs, stem)
        for title, seconds in zip(titles, times, strict=True)
    ]


# LiteRT -----------------------------------------------------------------------------------------


def litert_steps(
    runs: Sequence[Sequence[tuple[int, str, float]]], macs: Mapping[str, int]
) -> list[Step]:
    """Return the operators from the events of each run.

    Operators with weights get the layers' multiply-adds, in order, where there are as many.
    """
    names = [(node, name) for node, name, _ in runs[0]]
    same = [run for run in runs if [(node, name) for node, name, _ in run] == names]
    times = middle([[microseconds for _, _, microseconds in run] for run in same])
    steps = [
        Step(_NAMED.get(name, name), _NAMED.get(name, name), time)
        for (_, name), time in zip(names, times, strict=True)
    ]
    return with_multiply_adds(steps, macs)


def with_multiply_adds(steps: Sequence[Step], macs: Mapping[str, int]) -> list[Step]:
    """Return the steps, those with weights by the names of the layers where counts agree."""
    weighted = [step for step in steps if step.kind.startswith(_WEIGHTED)]
    if len(weighted) != len(macs):
        return list(steps)
    layers = iter(macs.items())
    found = []
    for step in steps:
        if step.kind.startswith(_WEIGHTED):
            name, done = next(layers)
            step = Step(name, step.kind, step.microseconds, done)
        found.append(step)
    return found


# Tables -----------------------------------------------------------------------------------------


def by_kind(steps: Sequence[Step]) -> list[tuple[str, int, float]]:
    """Return each kind with its number of steps and microseconds, the longest first."""
    times, counts = Counter[str](), Counter(step.kind for step in steps)
    for step in steps:
        times[step.kind] += step.microseconds
    return [(kind, counts[kind], time) for kind, time in times.most_common()]


def share(step: Step, peak: float | None) -> float | None:
    """Return the part of a peak in 10^9 multiply-adds a second that a step reaches."""
    rate = step.gmac_per_s
    return None if rate is None or not peak else rate / peak
