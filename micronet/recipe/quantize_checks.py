"""What a ``quantize`` section may say of oscillations, stages and images, as keys and problems."""

from __future__ import annotations

from collections.abc import Iterator

from micronet.recipe.schema import (
    IMAGE,
    MOST_BITS,
    ActivationPrecision,
    OscillationSection,
    ProgressiveStage,
    QuantizeSection,
    Sections,
)
from micronet.recipe.strict import Inherit

_OPERANDS = ("weights", "activations")

# A key of the recipe, and what is wrong with its value.
Problem = tuple[str, str]


def problems(recipe: Sections) -> Iterator[Problem]:
    """Yield what is wrong with the oscillations, the stages and the images of a recipe."""
    section = recipe.quantize
    if section is None:
        return
    if section.oscillations is not None:
        yield from _oscillation_problems(section.oscillations, recipe.train is not None)
    yield from _stage_problems(section)
    yield from _image_problems(section)


def _oscillation_problems(o: OscillationSection, has_epochs: bool) -> Iterator[Problem]:
    where = "quantize.oscillations"
    if not 0 < o.momentum < 1:
        yield f"{where}.momentum", f"{o.momentum} is not between 0 and 1"
    for name in ("freeze", "dampen"):
        value = getattr(o, name)
        ends = value if isinstance(value, tuple) else () if value is None else (value,)
        key = f"{where}.{name}"
        if isinstance(value, tuple) and len(value) != 2:
            yield key, f"{list(value)} is neither one number nor two"
        elif isinstance(value, tuple) and not has_epochs:
            yield key, f"{list(value)} moves over train.epochs, but there is no train section"
        if name == "freeze" and not all(0 < end < 1 for end in ends):
            yield key, f"{_text(value)} is not between 0 and 1, as frequencies are"
        if name == "dampen" and not all(0 <= end < float("inf") for end in ends):
            yield key, f"{_text(value)} is negative or no number"
        elif name == "dampen" and ends and not any(ends):
            yield key, f"{_text(value)} dampens nothing"


def _text(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _stage_problems(q: QuantizeSection) -> Iterator[Problem]:
    now: dict[str, float] = {}
    for i, stage in enumerate(q.progressive):
        where = f"quantize.progressive[{i}]"
        if i == 0 and stage.epoch != q.start_epoch:
            yield f"{where}.epoch", f"{stage.epoch} is not quantize.start_epoch, {q.start_epoch}"
        if i and stage.epoch <= q.progressive[i - 1].epoch:
            before = q.progressive[i - 1].epoch
            yield f"{where}.epoch", f"{stage.epoch} is not after the stage before it, {before}"
        yield from _bits_problems(stage, now, where, is_first=i == 0)
        now |= _given(stage)


def _given(stage: ProgressiveStage) -> dict[str, float]:
    values = {name: getattr(stage, name) for name in _OPERANDS}
    return {name: bits for name, bits in values.items() if bits is not None}


def _bits_problems(
    stage: ProgressiveStage, before: dict[str, float], where: str, *, is_first: bool
) -> Iterator[Problem]:
    given = _given(stage)
    if not given:
        yield where, "gives neither weights nor activations"
    for name, bits in given.items():
        key = f"{where}.{name}"
        if not 1 <= bits <= MOST_BITS:
            yield key, f"{bits:g} is not between 1 and {MOST_BITS}"
        elif is_first:
            continue
        elif name not in before:
            yield key, f"{bits:g} would be more bits than in the stages before, which give none"
        elif bits >= before[name]:
            yield key, f"{bits:g} is not fewer than {before[name]:g}, of the stages before"


def _image_problems(q: QuantizeSection) -> Iterator[Problem]:
    if q.activations is not None and q.activations.step == IMAGE:
        only = "is of the layer that reads the images alone: say it in quantize.overrides"
        yield "quantize.activations.step", f"{IMAGE} {only}"
    for i, override in enumerate(q.overrides):
        own, where = override.activations, f"quantize.overrides[{i}].activations"
        if not isinstance(own, ActivationPrecision) or own.step != IMAGE:
            continue
        yield from _said_of_image(own, where)
        weights = q.weights if isinstance(override.weights, Inherit) else override.weights
        if weights is None:
            yield f"{where}.step", f"{IMAGE} needs weights that are quantized, too"


def _said_of_image(p: ActivationPrecision, where: str) -> Iterator[Problem]:
    """Yield what else is said of a step that nothing sets: another number than the 256 levels."""
    for key, only in (("bits", MOST_BITS), ("levels", 2**MOST_BITS)):
        value = getattr(p, key)
        if value not in (None, only):
            yield f"{where}.{key}", f"{value:g} is of no use: an image has {2**MOST_BITS} levels"
    for key in ("decay", "offset", "start"):
        value = getattr(p, key)
        if value != getattr(ActivationPrecision, key):
            yield f"{where}.{key}", f"{value} is of no use: nothing sets the levels of an image"
