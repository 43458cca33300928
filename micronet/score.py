"""``python -m micronet.score``: storage and operations of a network, counted exactly.

Counts a run, a checkpoint, or a plan (an architecture and a schedule, no training needed).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import torch
from torch import nn

import micronet_kernels as kernels
from micronet import models, opcount, prune, quantize, runs
from micronet.config import load_schedule
from micronet.errors import UserError, nearest, reports_user_errors
from micronet.options import Parser, positive
from micronet.quantize import LayerBits
from micronet.rules import Cost, Precision, seed

RULES: dict[str, ModuleType] = {seed.NAME: seed}


@dataclass(frozen=True)
class Subject:
    """A network to score: its shape, its non-zero weights, and its precision where known."""

    name: str
    arch: str
    num_classes: int
    channels: int
    image_size: int
    nonzeros: Mapping[str, int]
    precision: Precision | None


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
    def score(self) -> Fraction:
        """The challenge's score; lower is better."""
        return score(self.rules, self.storage, self.operations)


def score(rules: ModuleType, storage: Fraction, operations: Fraction) -> Fraction:
    """Return storage and operations, each over the rule set's baseline, added."""
    return storage / rules.BASELINE_STORAGE + operations / rules.BASELINE_OPERATIONS


def _meta_model(arch: str, num_classes: int, channels: int) -> nn.Module:
    with torch.device("meta"):
        return models.create_model(arch, num_classes, channels=channels)


def from_plan(
    arch: str, schedule_path: str | None, rules: ModuleType, image_size: int | None, classes: int
) -> Subject:
    """Describe a network that need not exist yet: an architecture and a schedule's targets.

    Raises:
        UserError: the architecture is unknown or the schedule does not fit it.
    """
    model = _meta_model(arch, classes, 3)
    layers = models.layers(model)
    sparsities: dict[str, float] = {}
    precision = None
    if schedule_path is not None:
        schedule = load_schedule(schedule_path)
        if schedule.prune is not None:
            sparsities = prune.final_sparsities(model, schedule.prune, schedule_path)
        if schedule.quantize is not None:
            bits = quantize.plan(model, schedule.quantize, schedule_path)
            precision = precision_of(bits, rules.WORD_BITS)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    nonzeros = {n: size - int(sparsities.get(n, 0.0) * size) for n, size in sizes.items()}
    if image_size is None:
        own = models.default_image_size(arch)
        image_size = rules.IMAGE_SIZE if arch.startswith("efficientnet-b") else own
    if precision is None:
        stem, classifier = models.stem_name(model), models.classifier_name(model)
        precision = rules.assumed_precision(list(layers), stem, classifier)
    name = f"plan {schedule_path}" if schedule_path else "plan without a schedule"
    return Subject(name, arch, classes, 3, image_size, nonzeros, precision)


def from_run(path: str, rules: ModuleType) -> Subject:
    """Describe a trained network by its actual zeros and the precision it really has.

    Raises:
        UserError: there is no checkpoint, or a layer recorded as quantised is not.
    """
    loaded = runs.load(path)
    meta = loaded.meta
    bits = quantize.bits_from_dict(meta["bits"])
    if unready := quantize.unready(loaded.model):
        raise UserError(f"{str(loaded.path)!r}: quantiser {unready[0]!r} has never seen data")
    layers = models.layers(loaded.model)
    nonzeros = {n: int(kernels.count_nonzero(m.weight.detach())) for n, m in layers.items()}
    everything = {name: bits.get(name, LayerBits(None, None)) for name in layers}
    precision = precision_of(everything, rules.WORD_BITS)
    shape = (meta["arch"], meta["num_classes"], meta["channels"], meta["image_size"])
    return Subject(str(loaded.path), *shape, nonzeros, precision)


def precision_of(bits: Mapping[str, LayerBits], word_bits: int) -> Precision:
    """Return the billed precision of a network: float operands are whole words.

    Element-wise work is billed at the widest quantised activation, or in words where none is.
    """
    word = Fraction(word_bits)
    weights = {n: _exact(layer.weight_bits) or word for n, layer in bits.items()}
    activations = [_exact(layer.activation_bits) for layer in bits.values()]
    return Precision(weights, max((a for a in activations if a is not None), default=word))


def _exact(bits: float | None) -> Fraction | None:
    # 2.4 in a schedule means 12/5, not the binary fraction nearest to it.
    return None if bits is None else Fraction(str(bits))


def score_subject(subject: Subject, rules: ModuleType = seed) -> Score:
    """Count a network under a rule set.

    Raises:
        UserError: the network has an operation that no rule counts.
    """
    model = _meta_model(subject.arch, subject.num_classes, subject.channels)
    precision = subject.precision
    assert precision is not None
    try:
        ops = opcount.walk(model, subject.image_size, subject.channels)
    except ValueError as error:
        raise UserError(f"{subject.arch} cannot be counted: {error}") from None
    stored = tuple(rules.storage(model, subject.nonzeros, precision))
    executed = tuple(rules.operations(ops, subject.nonzeros, precision))
    return Score(subject, rules, stored, executed)


def decimal(value: Fraction) -> str:
    """Write a fraction as a decimal: exactly where it ends, else to six places."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    if rest != 1:
        return f"{float(value):.6f}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    whole, digits = divmod(int(value * 10**places), 10**places)
    return f"{whole}.{digits:0{places}d}" if places else str(whole)


def rounded(value: Fraction) -> int:
    """Round half up, as the 2019 entry printed its storage."""
    return (2 * value + 1).__floor__() // 2


def report(result: Score, as_published: bool) -> str:
    """Return the totals as text."""
    subject, operations = result.subject, result.operations
    if as_published:
        operations = Fraction(result.rules.published_operations(result.executed))
    total = score(result.rules, result.storage, operations)
    storage_ratio = float(result.storage / result.storage_dense)
    ops_ratio = float(operations / result.operations_dense)
    size = f"{subject.image_size}x{subject.image_size}"
    exact = f" (exact {decimal(result.storage)})" if result.storage.denominator != 1 else ""
    lines = [
        f"network  {subject.arch} at {size}, {subject.name}",
        f"rules    {result.rules.NAME}{', as published' if as_published else ''}",
        f"storage  {rounded(result.storage)}{exact}, dense {decimal(result.storage_dense)}, "
        f"ratio {storage_ratio:.4f}",
        f"ops      {decimal(operations)}, dense {decimal(result.operations_dense)}, "
        f"ratio {ops_ratio:.4f}",
        f"score    {float(total):.6f}",
    ]
    return "\n".join(lines)


def table(costs: Sequence[Cost], by_kind: bool) -> str:
    """Return costs as a table, line by line or summed by kind."""
    rows: dict[str, tuple[Fraction, Fraction]] = {}
    for index, cost in enumerate(costs):
        key = cost.kind if by_kind else f"{index:4d} {cost.kind:13s} {cost.name}"
        used, dense = rows.get(key, (Fraction(0), Fraction(0)))
        rows[key] = (used + cost.used, dense + cost.dense)
    width = max(len(key) for key in rows)
    head = f"{'':{width}s} {'used':>16s} {'dense':>14s}"
    body = [f"{k:{width}s} {decimal(u):>16s} {decimal(d):>14s}" for k, (u, d) in rows.items()]
    return "\n".join([head, *body])


def as_json(result: Score, as_published: bool) -> str:
    """Return the totals as one JSON object; exact numbers are strings."""
    record: dict[str, Any] = {
        "network": result.subject.name,
        "arch": result.subject.arch,
        "image_size": result.subject.image_size,
        "rules": result.rules.NAME,
        "storage": decimal(result.storage),
        "storage_dense": decimal(result.storage_dense),
        "operations": decimal(result.operations),
        "operations_dense": decimal(result.operations_dense),
        "score_exact": str(result.score),
        "score": float(result.score),
    }
    if as_published:
        record["operations_published"] = result.rules.published_operations(result.executed)
    return json.dumps(record, indent=2)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m micronet.score", description="Count a network exactly.")
    add = parser.add_argument
    add("run", nargs="?", help="run directory or checkpoint")
    add("--arch", help="architecture of a plan")
    add("--schedule", metavar="FILE", help="the plan's recipe: sparsities and bits")
    add("--image-size", type=positive, help="side of a plan's input in pixels")
    add("--num-classes", type=positive, default=1000, help="of a plan (default 1000)")
    add("--rules", default=seed.NAME, help=f"rule set (default {seed.NAME})")
    add("--as-published", action="store_true", help="sum in float32 as the 2019 script did")
    add("--layers", action="store_true", help="print every operation and stored tensor")
    add("--json", action="store_true", help="print one JSON object")
    return parser


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; return the process's exit code."""
    args = _parser().parse_args(argv)
    if args.rules not in RULES:
        raise UserError(f"there is no rule set {args.rules!r}{nearest(args.rules, RULES)}")
    rules = RULES[args.rules]
    if bool(args.run) == bool(args.arch):
        raise UserError("give a run or checkpoint, or a plan by --arch, and not both")
    if args.run and (args.schedule or args.image_size):
        raise UserError("--schedule and --image-size belong to a plan: give --arch, not a run")
    if args.run:
        subject = from_run(args.run, rules)
    else:
        subject = from_plan(args.arch, args.schedule, rules, args.image_size, args.num_classes)
    result = score_subject(subject, rules)
    if args.json:
        print(as_json(result, args.as_published))
        return 0
    if args.layers:
        print(table(result.stored, by_kind=False))
    print(table(result.executed, by_kind=not args.layers))
    print(report(result, args.as_published))
    return 0


if __name__ == "__main__":
    sys.exit(main())
