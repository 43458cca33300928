"""What oscillations and stages of a ``quantize`` section may say, as keys and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from micronet.recipe.schema import (
    MOST_BITS,
    OscillationSection,
    ProgressiveStage,
    QuantizeSection,
    Sections,
)

_OPERANDS = ("weights", "activations")

# A key of the recipe, and what is wrong with its value.
Problem = tuple[str, str]


def problems(recipe: Sections) -> Iterator[Problem]:
    """Yield what is wrong with the oscillations and the stages of a recipe."""
    section = recipe.quantize
    if section is None:
        return
    if section.oscillations is not None:
        yield from _oscillation_problems(section.oscillations, recipe.train is not None)
    yield from _stage_problems(section)


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
