"""A search for bits and sparsity that reach a target score at the least loss of accuracy.

Each layer keeps its plan or takes one alternative of a sensitivity table. Losses are taken to add
up, which is a first approximation; the score is counted exactly. Two passes, both deterministic:

1. Take, again and again, the alternative that lowers the score most for each unit of loss that it
   adds (of equal ones the larger step, then the earlier layer and row), until the target is met.
2. The last step may have gone further than needed: go through the changed layers, the one with the
   most loss first, and give each the alternative of least loss with which the target still holds.

It is a greedy search, not a proof of the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from micronet.scoring.count import Score, score_subject
from micronet.scoring.search.changes import Change, changed
from micronet.scoring.search.sensitivity import Option
from micronet.utils.errors import UserError
from micronet.utils.number_format import fixed

_AS_PLANNED = Option(Change(), Fraction(0))


@dataclass(frozen=True)
class Step:
    """One decision: a layer's old and new alternative, and the score after it."""

    layer: str
    before: Option
    after: Option
    score: Fraction
    reason: str


@dataclass(frozen=True)
class Proposal:
    """What the search proposes: the changed layers, its steps, and the score they end in."""

    chosen: Mapping[str, Option]
    steps: tuple[Step, ...]
    result: Score

    @property
    def loss(self) -> Fraction:
        """Sum of the losses, as if they added up."""
        return sum((option.loss for option in self.chosen.values()), Fraction(0))


class _Search:
    """The alternatives, what each of them alone takes off the score, and the present choice."""

    def __init__(self, base: Score, options: Mapping[str, list[Option]]) -> None:
        self.base = base
        self.options = {name: [_AS_PLANNED, *rows] for name, rows in options.items()}
        self.chosen = dict.fromkeys(options, _AS_PLANNED)
        self.steps: list[Step] = []
        # A layer's costs do not depend on the other layers once anything is quantized.
        self.gains = {
            (name, option): self._gain(name, option)
            for name, rows in self.options.items()
            for option in rows
        }
        self.score = base.score

    def _gain(self, name: str, option: Option) -> Fraction:
        return self.base.score - self._score_of({name: option}).score

    def _score_of(self, chosen: Mapping[str, Option]) -> Score:
        changes = {name: option.change for name, option in chosen.items() if option != _AS_PLANNED}
        base = self.base
        subject = changed(base.subject, changes)
        return score_subject(subject, base.rules, base.track, base.ops)

    def take(self, name: str, option: Option, reason: str) -> None:
        """Give a layer another alternative."""
        before = self.chosen[name]
        self.chosen[name] = option
        self.score -= self.gains[name, option] - self.gains[name, before]
        self.steps.append(Step(name, before, option, self.score, reason))

    def best_step(self) -> tuple[str, Option, str] | None:
        """Return the alternative that lowers the score most for its loss, None if none lowers."""
        best: tuple[tuple[bool, Fraction, Fraction], str, Option] | None = None
        for name, rows in self.options.items():
            now = self.chosen[name]
            for option in rows:
                gain = self.gains[name, option] - self.gains[name, now]
                added = option.loss - now.loss
                if gain <= 0:
                    continue
                rank = (added <= 0, gain / added if added > 0 else gain, gain)
                if best is None or rank > best[0]:
                    best = rank, name, option
        if best is None:
            return None
        (is_free, rate, _), name, option = best
        reason = "lowers the score at no loss" if is_free else f"{fixed(rate, 6)} a unit of loss"
        return name, option, reason

    def give_back(self, target: Fraction) -> None:
        """Undo what the target does not need, the largest losses first."""
        largest_first = sorted(self.chosen, key=lambda name: -self.chosen[name].loss)
        for name in largest_first:
            now = self.chosen[name]
            room = target - self.score
            fitting = [
                option
                for option in self.options[name]
                if option.loss < now.loss
                and self.gains[name, now] - self.gains[name, option] <= room
            ]
            if fitting:
                milder = min(fitting, key=lambda option: option.loss)
                self.take(name, milder, "given back: the target holds without it")


def search(base: Score, options: Mapping[str, list[Option]], target: Fraction) -> Proposal:
    """Return bits and sparsities whose score is at most ``target``.

    Args:
        base: the score of a plan that quantizes something.
        options: alternatives by layer; see ``sensitivity``.
        target: score to reach.

    Raises:
        UserError: the plan quantizes nothing, or no choice of alternatives reaches the target.
    """
    if not base.subject.is_quantized and any(_quantizes(row) for row in options.values()):
        reason = "what is quantized first costs all layers their 16-bit allowance"
        raise UserError(f"--search needs a plan that quantizes something: {reason}")
    state = _Search(base, options)
    while state.score > target:
        step = state.best_step()
        if step is None:
            reached = fixed(state.score, 6)
            raise UserError(f"no choice of the table reaches {float(target):g}: least is {reached}")
        state.take(*step)
    state.give_back(target)
    chosen = {name: option for name, option in state.chosen.items() if option != _AS_PLANNED}
    result = state._score_of(chosen)
    assert result.score == state.score
    return Proposal(chosen, tuple(state.steps), result)


def _quantizes(rows: list[Option]) -> bool:
    return any(o.change.bits is not None or o.change.inputs is not None for o in rows)
