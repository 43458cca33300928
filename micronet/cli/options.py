"""What each command was asked for, as frozen dataclasses; None where an option was not given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from micronet.runs.run_config import Request
from micronet.training.checkpoint_saver import Every


@dataclass(frozen=True)
class TrainOptions:
    """``fit``, ``prune`` or ``qat``.

    Attributes:
        stage: which of them.
        request: what the run records.
        out: the run directory to write.
        resume: continue the run there.
        checkpoint_every: how often within an epoch.
        keep: how many epochs' checkpoints stay.
        tensorboard: write events.
        workers: processes that decode images.
        skip_bad_images: leave damaged images out.
    """

    stage: str
    request: Request
    out: Path
    resume: bool = False
    checkpoint_every: Every | None = None
    keep: int = 0
    tensorboard: bool = False
    workers: int = 0
    skip_bad_images: bool = False


@dataclass(frozen=True)
class EvalOptions:
    """``eval``: of a run, or of an architecture with weights."""

    run: str | None
    arch: str | None
    weights: str | None
    data: str | None
    image_size: int | None
    holdout: float | None
    split: str | None
    batch_size: int | None
    workers: int
    skip_bad_images: bool
    json: bool


@dataclass(frozen=True)
class ScheduleOptions:
    """``schedule``: what a recipe would do to a network."""

    file: str
    arch: str
    plan: str | None
    num_classes: int


@dataclass(frozen=True)
class SummaryOptions:
    """``summary``: of a run or of an architecture."""

    run: str | None
    arch: str | None
    image_size: int | None
    num_classes: int


@dataclass(frozen=True)
class SensitivityOptions:
    """``sensitivity``: of a run's layers to pruning."""

    run: str
    kind: str
    sparsities: str
    layers: Sequence[str]
    data: str | None
    batch_size: int
    batches: int | None
    workers: int
    out: Path


CommandOptions = TrainOptions | EvalOptions | ScheduleOptions | SummaryOptions | SensitivityOptions


@dataclass(frozen=True)
class ScoreOptions:
    """``python -m micronet.score``.

    Attributes:
        networks: plan files, run directories or checkpoints.
        arch: architecture of a plan, in their place.
        schedule: recipes of that plan.
        weights: file of weights to count instead of the plan's targets.
        image_size: side of the plan's input in pixels.
        num_classes: of the plan.
        assume_bits: bill a run in the rule set's usual bits.
        rules: name of the rule set.
        track: name of the track.
        accumulator: width that additions are billed at.
        result: what an evaluation found.
        form: text, json, csv or markdown.
        as_published: add the figures of the rule set's own script.
        layers: print a line for every layer.
        entries: print every operation and stored tensor.
        proof: print how wide each accumulator must be.
        waterfall: file of the picture.
        compare: score several networks side by side.
        sweep: what to vary.
        search: file of the sensitivities to search by.
        target: score that the search is to reach.
        proposal: file of the plan that it proposes.
    """

    networks: Sequence[str]
    arch: str | None
    schedule: Sequence[str] | None
    weights: str | None
    image_size: int | None
    num_classes: int | None
    assume_bits: bool
    rules: str
    track: str
    accumulator: str
    result: str | None
    form: str
    as_published: bool
    layers: bool
    entries: bool
    proof: bool
    waterfall: str | None
    compare: bool
    sweep: str | None
    search: str | None
    target: str | None
    proposal: str | None
