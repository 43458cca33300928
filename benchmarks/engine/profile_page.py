"""The profile of EfficientNet-B1 on one thread: measured, and as a page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import micronet
from benchmarks.engine import profiles, settings
from benchmarks.engine.profiles import Step
from benchmarks.engine.settings import LITERT, Network, Setting
from benchmarks.engine.table import grid, number
from benchmarks.harness import report

STEM = "engine_profile"
RUNS = 100
VNNI = "vpdpbusd"


@dataclass(frozen=True)
class Profile:
    """The steps of ours and of LiteRT; without LiteRT's, the note says why."""

    network: str
    bits: str
    ours: list[Step]
    litert: list[Step]
    note: str
    peaks: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def measure(
    folder: Path, network: Network, macs: Mapping[str, int], peaks: dict[str, float], runs: int
) -> Profile:
    """Profile single images on one thread, ours and then LiteRT's."""
    bits = network.forms[0]
    engine = micronet.Engine(settings.packed(folder, network.name, bits))
    shape = (1, 3, network.side, network.side)
    images = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    for _ in range(2):
        engine(images)
    engine.start_profile()
    added = []
    for _ in range(runs):
        engine(images)
        added.append([seconds for _, seconds in engine.profile()])
    titles = [title for title, _ in engine.profile()]
    ours = profiles.our_steps(titles, profiles.differences(added), macs)
    litert, note = _litert(folder, network, macs, runs)
    return Profile(network.name, bits, ours, litert, note, peaks)


def _litert(
    folder: Path, network: Network, macs: Mapping[str, int], runs: int
) -> tuple[list[Step], str]:
    model = settings.peer_model(folder, LITERT, Setting(network.name, 1, 1))
    if not settings.PEERS_PYTHON.exists() or not model.exists():
        return [], "LiteRT is not installed, or its model is not made"
    command = [settings.PEERS_PYTHON, "-m", "benchmarks.engine.peers.litert_profile"]
    said = subprocess.run(
        [*command, model, str(runs)],
        cwd=settings.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        lines = said.stderr.strip().splitlines() or [f"code {said.returncode}"]
        return [], f"LiteRT's profiler: {lines[-1]}"
    return profiles.litert_steps(json.loads(said.stdout), macs), ""


# The page ---------------------------------------------------------------------------------------

ABOUT = (
    "Made by `make bench-engine`. One thread, single images, with profiling on; of each step the "
    "mean of the middle half of its runs. Ours: the steps of `micronet-run --profile`. LiteRT: the "
    "events of its own profiler, by the C functions of the library in its wheel, with the option "
    "`enable_profiling`. Multiply-adds are of one image, zeros among them."
)


def markdown(profile: Profile, facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    name = f"{profile.network} at {profile.bits} bits"
    parts = [f"# Where the time goes: {name}, on the CPU", ABOUT, _peaks(profile.peaks)]
    parts += ["## Ours by kind", _kinds(profile.ours)]
    parts += ["## LiteRT by operator", _kinds(profile.litert) if profile.litert else profile.note]
    parts += ["## Layers", _ABOUT_LAYERS, _layers(profile)]
    parts += ["## All steps of ours", _steps(profile.ours)]
    return "\n\n".join([*parts, report.facts(facts)]) + "\n"


_ABOUT_LAYERS = (
    f"Of peak: multiply-adds a second over those of `{VNNI}` on one core. A step of ours may hold "
    "what follows its layer; LiteRT's tables, products and sums behind a layer are operators of "
    "their own. The layers are Keras' there, in the same order."
)


def _peaks(peaks: Mapping[str, float]) -> str:
    if not peaks:
        return "The peak of this machine was not measured: no compiler, or another processor."
    rates = ", ".join(f"`{name}` {rate:.0f}" for name, rate in peaks.items())
    return (
        "10^9 multiply-adds a second of one core, of loops in registers "
        f"(`benchmarks/engine/peak.cpp`): {rates}."
    )


def _kinds(steps: Sequence[Step]) -> str:
    whole = sum(step.microseconds for step in steps)
    lines = [
        [kind, str(count), number(time, 0), f"{100 * time / whole:.1f} %"]
        for kind, count, time in profiles.by_kind(steps)
    ]
    head = ["kind", "steps", "us", "of all"]
    return grid(head, [*lines, ["all", str(len(steps)), number(whole, 0), ""]])


def _layers(profile: Profile) -> str:
    peak = profile.peaks.get(VNNI)
    theirs = {step.title: step for step in profile.litert}
    lines = []
    for step in profile.ours:
        if step.multiply_adds:
            name = step.title.partition(") ")[2]
            cells = [name, number(step.multiply_adds / 1e6, 2), *_rate(step, peak)]
            other = theirs.get(name)
            lines.append([*cells, *(_rate(other, peak) if other else ["", "", ""])])
    ours, litert = ("us", "GMAC/s", "of peak"), ("LiteRT us", "GMAC/s", "of peak")
    return grid(["layer", "million multiply-adds", *ours, *litert], lines)


def _rate(step: Step, peak: float | None) -> list[str]:
    part = profiles.share(step, peak)
    reached = "" if part is None else f"{100 * part:.0f} %"
    return [number(step.microseconds, 1), number(step.gmac_per_s, 1), reached]


def _steps(steps: Sequence[Step]) -> str:
    return grid(["step", "us"], [[step.title, number(step.microseconds, 1)] for step in steps])
