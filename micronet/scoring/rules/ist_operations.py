"""Operations as the scripts of the 2019 entry (IST) counted them, in all of their versions.

Quirks in every version: work of a grouped convolution is divided by the groups a second time; a
sigmoid gate is billed on the map that it scales, which stands for the product too; every MBConv
block pays one more activation after its last BatchNorm, whether it has a skip or not, which stands
for the addition; dropout counts as an activation. Biases of folded normalizations are one addition
a position, not one an output element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations import records
from micronet.scoring.operations.records import Op
from micronet.scoring.rules.ist import BLOCK, elementwise_bits, sum_in_blocks, weight_bits
from micronet.scoring.rules.rule_set import Cost

_GATES = {"sigmoid", "hardsigmoid"}
_BLOCK_END = "._bn2"


@dataclass(frozen=True)
class OperationRules:
    """One version of the scripts' rules.

    Attributes:
        word_bits: an operation on so many bits is one.
        classifier: "single" counts a product and its addition once, "double" twice, "apart" bills
            products in the weights' bits and additions in words.
        additions: of convolutions: "fused" into one operation a product, "quantized" or "float".
        float_block_0: the first convolution of the first block is billed in words.
        steps: operations of one activated element.
        float_activations: those billed in words, beside the stem's: "none", "maps" (all but those
            over single pixels, gates and dropout) or "all".
        normalization: "quantized", "float", or "free".
        float_pooling: poolings are billed in words.
        whole_bits: a fractional number of bits is billed as the next whole one.
    """

    word_bits: int
    classifier: str = "single"
    additions: str = "fused"
    float_block_0: bool = False
    steps: int = 1
    float_activations: str = "none"
    normalization: str = "quantized"
    float_pooling: bool = False
    whole_bits: bool = False


@dataclass(frozen=True)
class _Place:
    """Where an element-wise operation stands: behind which layer, and on how many bits."""

    layer: str
    bits: Fraction
    over_pixel: bool


@dataclass(frozen=True)
class _Term:
    """What one record is billed: exactly, in float32, and dense."""

    name: str
    kind: str
    layer: str
    exact: Fraction
    float32: np.float32
    dense: Fraction


def operations(rules: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the cost of every operation in execution order."""
    for term in _terms(rules, subject, ops):
        yield Cost(term.name, term.kind, term.exact, term.dense, term.layer)


def published_operations(rules: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]) -> int:
    """Return the operations as the script printed them: computed and summed in float32."""
    return sum_in_blocks((term.name, term.float32) for term in _terms(rules, subject, ops))


def _terms(rules: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]) -> Iterator[_Term]:
    place = _Place("", Fraction(rules.word_bits), False)
    for op, following in zip(ops, [*ops[1:], None], strict=True):
        if isinstance(op, (records.Conv, records.Linear)):
            place = _behind(rules, subject, op, place)
            yield _layer(rules, op, subject.facts_of(op).kept, _bits(rules, subject, op))
        elif (
            isinstance(op, records.Activation)
            and op.function in _GATES
            and isinstance(following, records.Scale)
        ):
            continue  # billed with the product that follows
        elif not (isinstance(op, records.Residual) and op.name.startswith(BLOCK)):
            yield from _elementwise(rules, op, place)


def _bits(
    rules: OperationRules, subject: ScoredNetwork, op: records.Conv | records.Linear
) -> Fraction:
    first = op.name.startswith(f"{BLOCK}0.") and op.name.endswith("._depthwise_conv")
    bits = weight_bits(subject, op.name, rules.whole_bits)
    is_float = bits is None or (rules.float_block_0 and first)
    return Fraction(rules.word_bits) if is_float or bits is None else bits


def _behind(
    rules: OperationRules, subject: ScoredNetwork, op: records.Conv | records.Linear, place: _Place
) -> _Place:
    """Return the place behind a layer."""
    if isinstance(op, records.Linear):
        return _Place(op.name, place.bits, False)
    # Normalization and activation behind a float stem are float too.
    widest = elementwise_bits(subject)
    is_float = widest is None or weight_bits(subject, op.name, False) is None
    bits = Fraction(rules.word_bits) if is_float or widest is None else widest
    return _Place(op.name, bits, op.positions == 1)


def _layer(
    rules: OperationRules, op: records.Conv | records.Linear, nonzero: int, bits: Fraction
) -> _Term:
    ratio = bits / rules.word_bits
    formula: Any = _conv if isinstance(op, records.Conv) else _linear
    kind = "convolution" if isinstance(op, records.Conv) else "linear"
    return _Term(
        op.name,
        kind,
        op.name,
        formula(rules, op, Fraction(nonzero), ratio),
        np.float32(formula(rules, op, np.float32(nonzero), float(ratio))),
        formula(rules, op, Fraction(op.weights), Fraction(1)),
    )


# Over fractions the two formulas are exact; over float32 they give what the scripts printed.
def _conv(rules: OperationRules, op: records.Conv, nonzero: Any, ratio: Any) -> Any:
    # The weights already have in_channels / groups columns: the scripts' well-known mistake.
    products = nonzero * op.positions / op.groups * ratio
    if rules.additions == "fused":
        return products + (op.positions * op.out_channels if op.bias else 0)
    full = rules.additions == "float"
    width = 1 if full else ratio
    additions = (nonzero - 1) * op.positions / op.groups * width
    # Every convolution has a bias once its normalization is folded.
    additions += op.positions * width
    return additions + products


def _linear(rules: OperationRules, op: records.Linear, nonzero: Any, ratio: Any) -> Any:
    bias = op.positions * op.out_features if op.bias else 0
    products = nonzero * op.positions
    if rules.classifier == "apart":
        return products * ratio + bias + (products + bias)
    once = products * ratio + bias
    return once if rules.classifier == "single" else 2 * once


def _elementwise(rules: OperationRules, op: Op, place: _Place) -> Iterator[_Term]:
    word = Fraction(rules.word_bits)
    if isinstance(op, records.Pool):
        bits = word if rules.float_pooling else place.bits
        yield _element_term(rules, op.name, "pooling", place, op.input_numel, bits)
    elif isinstance(op, (records.BatchNorm, records.LayerNorm)):
        if rules.normalization != "free":
            bits = word if rules.normalization == "float" else place.bits
            yield _element_term(rules, op.name, "normalization", place, op.numel, bits)
        if op.name.endswith(_BLOCK_END):
            name = op.name + " (block output)"
            bits = place.bits if rules.float_activations == "none" else word
            yield _element_term(rules, name, "activation", place, op.numel * rules.steps, bits)
    elif isinstance(op, records.MatrixProduct):
        yield _element_term(rules, op.name, "matrix product", place, op.products, word)
    else:
        assert not isinstance(op, (records.Conv, records.Linear))
        bits = word if _is_float(rules, op, place) else place.bits
        yield _element_term(rules, op.name, "activation", place, op.numel * rules.steps, bits)


def _is_float(rules: OperationRules, op: Op, place: _Place) -> bool:
    """Whether an activation is billed in words."""
    if rules.float_activations != "maps":
        return rules.float_activations == "all"
    return not (place.over_pixel and isinstance(op, records.Activation)) and not isinstance(
        op, (records.Dropout, records.Scale)
    )


def _element_term(
    rules: OperationRules, name: str, kind: str, place: _Place, numel: int, bits: Fraction
) -> _Term:
    used = numel * bits / rules.word_bits
    return _Term(name, kind, place.layer, used, np.float32(float(used)), Fraction(numel))
