"""The score of a network: what it stores and executes, billed by a rule set, added up exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from torch import nn

from micronet.models.failures import failures_of
from micronet.quantization import quantize
from micronet.quantization.faults import require_sound
from micronet.quantization.quantize import LayerBits
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.scored_network import ScoredNetwork, describe_network
from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import Op
from micronet.scoring.rules.ist_versions import IST_2019_07_26, IST_FINAL, LEADERBOARD, SEED
from micronet.scoring.rules.official import OFFICIAL
from micronet.scoring.rules.rule_set import Cost, RuleSet
from micronet.scoring.rules.tracks import DEFAULT, Track
from micronet.utils.errors import UserError, nearest

RULES: dict[str, RuleSet] = {
    rules.name: rules for rules in (OFFICIAL, SEED, IST_2019_07_26, IST_FINAL, LEADERBOARD)
}
DEFAULT_RULES = OFFICIAL


@dataclass(frozen=True, repr=False)
class Score:
    """Exact totals, and the costs that they are the sums of."""

    subject: ScoredNetwork
    rules: RuleSet
    track: Track
    ops: tuple[Op, ...]
    stored: tuple[Cost, ...]
    executed: tuple[Cost, ...]

    def __repr__(self) -> str:
        """Return for example ``Score(0.1295, official rules, ResNet at 32x32)``."""
        subject = self.subject
        network = f"{subject.arch} at {subject.image_size}x{subject.image_size}"
        return f"Score({float(self.score):.4f}, {self.rules.name} rules, {network})"

    @property
    def storage(self) -> Fraction:
        """Storage in the rule set's unit."""
        return total(self.stored)

    @property
    def storage_bits(self) -> Fraction:
        """Storage in bits."""
        return self.storage * self.rules.word_bits

    @property
    def storage_dense(self) -> Fraction:
        """Storage of the same network, dense and in full precision."""
        return sum((cost.dense for cost in self.stored), Fraction(0))

    @property
    def operations(self) -> Fraction:
        """Operations in the rule set's unit."""
        return total(self.executed)

    @property
    def operations_dense(self) -> Fraction:
        """Operations of the same network, dense and in full precision."""
        return sum((cost.dense for cost in self.executed), Fraction(0))

    @property
    def score(self) -> Fraction:
        """The challenge's score; lower is better."""
        return self.share_of(self.storage, self.operations)

    def share_of(self, storage: Fraction, operations: Fraction) -> Fraction:
        """Return storage and operations, each over the track's baseline, added."""
        track = self.track
        return storage / track.baseline_storage + operations / track.baseline_operations

    def published(self) -> dict[str, str]:
        """Return the figures as the rule set's own program printed them.

        Raises:
            UserError: there was no such program.
        """
        if self.rules.published is None:
            raise UserError(f"rule set {self.rules.name!r} has no program whose figures to repeat")
        return self.rules.published(self.subject, self.ops)

    @cached_property
    def layers(self) -> dict[str, LayerFacts]:
        """Facts of every convolution and linear layer, those that are no modules last."""
        return {**self.subject.layers, **self.subject.functional_layers(self.ops)}

    @property
    def weights(self) -> int:
        """Number of convolution and linear weights."""
        return sum(facts.numel for facts in self.layers.values())

    @property
    def nonzeros(self) -> int:
        """Number of those that are not zero before they are quantized."""
        return sum(facts.kept for facts in self.layers.values())

    @property
    def sparsity(self) -> Fraction:
        """Share of zeros among them; 0 where there are no weights."""
        return 1 - Fraction(self.nonzeros, self.weights) if self.weights else Fraction(0)

    def rows(self) -> list[LayerRow]:
        """Return the costs by layer, in module order; last what precedes or belongs to none."""
        names = [*self.layers, ""]
        rows = (LayerRow.of(self, name) for name in names)
        return [row for row in rows if row.name or row.storage or row.operations]


@dataclass(frozen=True)
class LayerRow:
    """What one layer is billed, with the element-wise work behind it.

    Operations that a rule set calls neither multiplications nor additions are only in the sum.
    """

    name: str
    facts: LayerFacts | None
    layout: str
    storage: Fraction
    multiplications: Fraction
    additions: Fraction
    operations: Fraction
    score: Fraction

    @classmethod
    def of(cls, score: Score, name: str) -> LayerRow:
        """Return the row of a layer; the empty name is that of what belongs to none."""
        stored = [cost for cost in score.stored if cost.layer == name]
        executed = [cost for cost in score.executed if cost.layer == name]
        storage, operations = total(stored), total(executed)
        return cls(
            name,
            score.layers.get(name),
            next((cost.note for cost in stored if cost.kind == "weights"), ""),
            storage,
            total(cost for cost in executed if cost.part == "multiply"),
            total(cost for cost in executed if cost.part == "add"),
            operations,
            score.share_of(storage, operations),
        )


def total(costs: Iterable[Cost]) -> Fraction:
    """Return the sum of what costs are billed."""
    return sum((cost.used for cost in costs), Fraction(0))


def score_subject(
    subject: ScoredNetwork,
    rules: RuleSet = DEFAULT_RULES,
    track: Track = DEFAULT,
    ops: Sequence[Op] | None = None,
) -> Score:
    """Count a network under a rule set.

    Args:
        subject: the network.
        rules: the rule set.
        track: whose baselines divide the totals.
        ops: the walk of the network where it is known already.

    Raises:
        UserError: the network has an operation that no rule counts.
    """
    walked = tuple(walk(subject) if ops is None else ops)
    stored, executed = rules.storage(subject, walked), rules.operations(subject, walked)
    return Score(subject, rules, track, walked, tuple(stored), tuple(executed))


def walk(subject: ScoredNetwork) -> list[Op]:
    """Return the operations of a network.

    Raises:
        UserError: it has an operation that no rule counts.
    """
    problem = f"{subject.arch} cannot be counted"
    with failures_of(problem):
        try:
            return operation_walk.walk(
                subject.model, subject.image_size, subject.channels, subject.forward
            )
        except ValueError as error:
            raise UserError(f"{problem}: {error}") from None


def score_model(
    model: nn.Module,
    image_size: int,
    channels: int = 3,
    *,
    bits: Mapping[str, LayerBits] | None = None,
    sparsities: Mapping[str, float] | None = None,
    rules: RuleSet = DEFAULT_RULES,
    accumulator: str = "32",
    forward: operation_walk.Forward | None = None,
) -> Score:
    """Describe a network and count it; see ``describe_network`` and ``score_subject``."""
    subject = describe_network(
        model,
        image_size,
        channels,
        bits=bits,
        sparsities=sparsities,
        rules=rules,
        accumulator=accumulator,
        forward=forward,
    )
    return score_subject(subject, rules)


def score(
    model: nn.Module,
    image_size: int,
    channels: int = 3,
    *,
    rules: str = DEFAULT_RULES.name,
    accumulator: str = "32",
    forward: operation_walk.Forward | None = None,
) -> Score:
    """Count a network as it is: its zeros, its precision, and the operations of one image.

    Args:
        model: any network that maps images (1, channels, size, size) to something, or a detector
            of torchvision, of which what computes scores and boxes is counted.
        image_size: side of the image in pixels.
        channels: of the image.
        rules: name of a rule set, one of ``RULES``.
        accumulator: how wide additions are claimed to be, one of ``accumulators.KINDS``.
        forward: called with the network and images, runs all that is counted, where the network
            takes something else or does more.

    Raises:
        UserError: it is no network, there is no such rule set, an operation has no rule, a
            quantizer has seen no data yet, or a step, an offset, a range or quantized weights are
            no numbers to compute with.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"score takes a torch network, not {type(model).__name__}")
    if rules not in RULES:
        raise UserError(f"there are no rules {rules!r}{nearest(rules, RULES)}")
    if uninitialized := quantize.uninitialized(model):
        raise UserError(f"quantizer {uninitialized[0]!r} has never seen data")
    require_sound(model, f"{type(model).__name__} cannot be scored: ")
    bits = quantize.precision_of(model)
    return score_model(
        model,
        image_size,
        channels,
        bits=bits,
        rules=RULES[rules],
        accumulator=accumulator,
        forward=forward,
    )


def by_kind(costs: Iterable[Cost]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return (used, dense) sums per kind, in order of first appearance."""
    sums: dict[str, tuple[Fraction, Fraction]] = {}
    for cost in costs:
        used, dense = sums.get(cost.kind, (Fraction(0), Fraction(0)))
        sums[cost.kind] = (used + cost.used, dense + cost.dense)
    return sums


def shares(score: Score) -> Iterator[tuple[str, Fraction]]:
    """Yield the part of the score that each kind of storage and of operation makes up."""
    zero = Fraction(0)
    for kind, (used, _) in by_kind(score.stored).items():
        yield f"stored {kind}", score.share_of(used, zero)
    for kind, (used, _) in by_kind(score.executed).items():
        yield kind, score.share_of(zero, used)
