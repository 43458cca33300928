"""``python -m micronet.score``: storage and operations of a network, counted exactly.

Counts a run, a checkpoint, or a plan (an architecture and a schedule, no training needed).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType

from torch import nn

from micronet import models, opcount, score_text
from micronet.errors import UserError, nearest, reports_user_errors
from micronet.options import Parser, positive
from micronet.quantize import LayerBits
from micronet.rules import Cost, seed
from micronet.subject import Subject, describe, from_plan, from_run

RULES: dict[str, ModuleType] = {seed.NAME: seed}


@dataclass(frozen=True)
class Score:
    """Exact totals, and the costs that they are the sums of."""

    subject: Subject
    rules: ModuleType
    stored: tuple[Cost, ...]
    executed: tuple[Cost, ...]

    @property
    def storage(self) -> Fraction:
        """Storage in the rule set's unit."""
        return sum((cost.used for cost in self.stored), Fraction(0))

    @property
    def storage_dense(self) -> Fraction:
        """Storage of the same network, dense and in full precision."""
        return sum((cost.dense for cost in self.stored), Fraction(0))

    @property
    def operations(self) -> Fraction:
        """Operations in the rule set's unit."""
        return sum((cost.used for cost in self.executed), Fraction(0))

    @property
    def operations_dense(self) -> Fraction:
        """Operations of the same network, dense and in full precision."""
        return sum((cost.dense for cost in self.executed), Fraction(0))

    @property
    def published_operations(self) -> Fraction:
        """Operations as the rule set's own program summed them, rounding as it did."""
        return Fraction(self.rules.published_operations(self.executed))

    @property
    def score(self) -> Fraction:
        """The challenge's score; lower is better."""
        return self.score_with(self.operations)

    def score_with(self, operations: Fraction) -> Fraction:
        """Return storage and ``operations``, each over the challenge's baseline, added."""
        storage = self.storage / self.rules.BASELINE_STORAGE
        return storage + operations / self.rules.BASELINE_OPERATIONS

    @property
    def weights(self) -> int:
        """Number of convolution and linear weights."""
        return sum(layer.weight.numel() for layer in models.layers(self.subject.model).values())

    @property
    def nonzeros(self) -> int:
        """Number of those that are not zero."""
        return sum(self.subject.nonzeros.values())

    @property
    def sparsity(self) -> Fraction:
        """Share of zeros among them."""
        return 1 - Fraction(self.nonzeros, self.weights)


def score_subject(subject: Subject, rules: ModuleType = seed) -> Score:
    """Count a network under a rule set.

    Raises:
        UserError: the network has an operation that no rule counts.
    """
    try:
        ops = opcount.walk(subject.model, subject.image_size, subject.channels)
    except ValueError as error:
        raise UserError(f"{subject.arch} cannot be counted: {error}") from None
    stored = tuple(rules.storage(subject.model, subject.nonzeros, subject.precision))
    executed = tuple(rules.operations(ops, subject.nonzeros, subject.precision))
    return Score(subject, rules, stored, executed)


def score_model(
    model: nn.Module,
    image_size: int,
    channels: int = 3,
    bits: Mapping[str, LayerBits] | None = None,
    sparsities: Mapping[str, float] | None = None,
    rules: ModuleType = seed,
) -> Score:
    """Describe a network and count it; see ``describe`` and ``score_subject``."""
    subject = describe(model, image_size, channels, bits=bits, sparsities=sparsities, rules=rules)
    return score_subject(subject, rules)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m micronet.score", description="Count a network exactly.")
    add = parser.add_argument
    add("run", nargs="?", help="run directory or checkpoint")
    add("--arch", help="architecture of a plan")
    add("--schedule", metavar="FILE", help="the plan's recipe: sparsities and bits")
    add("--image-size", type=positive, help="side of a plan's input in pixels")
    add("--num-classes", type=positive, help="of a plan (default 1000)")
    add("--rules", default=seed.NAME, help=f"rule set (default {seed.NAME})")
    add("--as-published", action="store_true", help="sum in float32 as the 2019 script did")
    add("--assume-bits", action="store_true", help="bill a run in the rule set's usual bits")
    add("--layers", action="store_true", help="print every operation and stored tensor")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _subject(args: argparse.Namespace, rules: ModuleType) -> Subject:
    plan_options = {
        "--schedule": args.schedule,
        "--image-size": args.image_size,
        "--num-classes": args.num_classes,
    }
    if bool(args.run) == bool(args.arch):
        raise UserError("give a run or checkpoint, or a plan by --arch, and not both")
    if args.arch and args.assume_bits:
        raise UserError("--assume-bits belongs to a run; a plan's bits are in its schedule")
    if args.arch:
        return from_plan(args.arch, args.schedule, rules, args.image_size, args.num_classes or 1000)
    for option, value in plan_options.items():
        if value is not None:
            raise UserError(f"{option} {value} belongs to a plan: give --arch, not a run")
    return from_run(args.run, rules, args.assume_bits)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; return the process's exit code."""
    args = _parser().parse_args(argv)
    if args.rules not in RULES:
        raise UserError(f"there is no rule set {args.rules!r}{nearest(args.rules, RULES)}")
    rules = RULES[args.rules]
    result = score_subject(_subject(args, rules), rules)
    if args.json:
        print(score_text.as_json(result, args.as_published, args.layers))
        return 0
    rows = score_text.one_by_one if args.layers else score_text.by_kind
    print(score_text.table("storage of", rows(result.stored)))
    print()
    print(score_text.table("operations of", rows(result.executed)))
    print()
    print(score_text.totals(result, args.as_published))
    return 0


if __name__ == "__main__":
    sys.exit(main())
