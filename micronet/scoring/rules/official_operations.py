"""Operations under the official rules: what each record of the walk multiplies and adds.

The rules themselves stand in ``micronet``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from micronet.scoring.network.accumulators import addition_bits
from micronet.scoring.network.encodings import code_bits
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations import records
from micronet.scoring.operations.records import Op
from micronet.scoring.rules.rule_set import Cost

FULL = 32
# What a float may count as where nothing in the network is quantized.
UNQUANTIZED = 16

# Multiplications and additions of one element; a comparison and a transcendental function count as
# multiplications. The first three are the counter's own.
ACTIVATIONS: dict[str, tuple[int, int]] = {
    "relu": (1, 0),
    "swish": (3, 1),
    "sigmoid": (2, 1),
    "relu6": (2, 0),  # two comparisons
    "hardsigmoid": (3, 1),  # relu6(x + 3) / 6
    "hardswish": (4, 1),  # x * relu6(x + 3) / 6
    "gelu": (4, 1),  # x * (1 + erf(x / sqrt 2)) / 2: two scalings, erf, product; addition
    "mish": (4, 1),  # x * tanh(log(1 + exp x))
    "softplus": (2, 1),  # log(1 + exp x)
    "leaky_relu": (2, 0),  # a comparison and a product
    "prelu": (2, 0),
    "elu": (2, 1),  # a comparison, exp(x) - 1
    "selu": (4, 1),  # the same with a factor inside and one around
    "log1p": (1, 1),
}
# One step each.
ACTIVATIONS |= dict.fromkeys(
    "tanh exp log erf sqrt rsqrt reciprocal square abs neg maximum minimum".split(), (1, 0)
)


def bits_of(levels: int | None) -> int | None:
    """Return the bits of a code of so many levels; None for a float."""
    return None if levels is None else code_bits(levels)


def float_bits(subject: ScoredNetwork) -> int:
    """Return what a float counts as in storage and in multiplications."""
    return FULL if subject.is_quantized else UNQUANTIZED


@dataclass(frozen=True)
class _Work:
    """Multiplications and additions of one operation, with the bits that they count as."""

    kind: str
    multiplications: int = 0
    additions: int = 0


def operations(subject: ScoredNetwork, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield what every operation multiplies and adds, apart, in execution order."""
    floats = float_bits(subject)
    folded = {op.folds_into for op in ops if isinstance(op, records.BatchNorm)}
    layer = ""
    for op in ops:
        if isinstance(op, (records.Conv, records.Linear)):
            layer = op.name
            yield from _layer(op, subject, op.name in folded, floats)
        elif not isinstance(op, records.Dropout) and not (
            isinstance(op, records.BatchNorm) and op.folds_into
        ):
            yield from _elementwise(op.name, _work(op), floats, layer)


def _layer(
    op: records.Conv | records.Linear, subject: ScoredNetwork, is_folded: bool, floats: int
) -> Iterator[Cost]:
    facts, accumulator = subject.facts_of(op), subject.accumulator
    dense = facts.numel * op.positions
    outputs = len(facts.nonzeros) * op.positions
    bits = _product_bits(facts, floats)
    used = Fraction(facts.nonzero * op.positions * bits, FULL)
    note = f"{bits} bits"
    yield Cost(op.name, "multiplications", used, Fraction(dense), op.name, "multiply", note)
    used = Fraction(addition_bits(facts, accumulator) * op.positions, FULL)
    note = f"accumulator {accumulator}"
    yield Cost(op.name, "additions", used, Fraction(dense - outputs), op.name, "add", note)
    if op.bias or is_folded or facts.bits.reads_image:
        # A channel without weights has nothing to add its bias to.
        used = Fraction(sum(z > 0 for z in facts.nonzeros) * op.positions)
        yield Cost(op.name, "bias additions", used, Fraction(outputs), op.name, "add")


def _product_bits(facts: LayerFacts, floats: int) -> int:
    """Return what a multiplication of a layer counts as."""
    weights, inputs = bits_of(facts.bits.weight_levels), bits_of(facts.bits.activation_levels)
    if inputs is None:
        return weights if weights == 1 else floats
    return floats if weights is None else max(weights, inputs)


def _elementwise(name: str, work: _Work, floats: int, layer: str) -> Iterator[Cost]:
    parts = [("multiply", work.multiplications, floats), ("add", work.additions, FULL)]
    for part, count, bits in parts:
        if count:
            used = Fraction(count * bits, FULL)
            yield Cost(name, work.kind, used, Fraction(count), layer, part, f"{bits} bits")


def _work(op: Op) -> _Work:
    formula = _FORMULAS.get(type(op))
    if formula is None:
        raise TypeError(f"{type(op).__name__} is no element-wise operation")
    return formula(op)


def _activation(op: records.Activation) -> _Work:
    multiplications, additions = ACTIVATIONS[op.function]
    return _Work("activations", multiplications * op.numel, additions * op.numel)


def _softmax(op: records.Softmax) -> _Work:
    """A transcendental function, a quotient (in the logarithm a difference) and a sum's part each.

    A group of n has n - 1 additions, and its sum one more logarithm.
    """
    if op.is_log:
        return _Work("activations", op.numel + op.groups, 2 * op.numel - op.groups)
    return _Work("activations", 2 * op.numel, op.numel - op.groups)


def _pool(op: records.Pool) -> _Work:
    combined = op.reads - op.output_numel
    if op.function == "maximum":
        return _Work("poolings", combined)
    if op.function == "sum":
        return _Work("poolings", 0, combined)
    return _Work("poolings", op.output_numel, combined)


def _layer_norm(op: records.LayerNorm) -> _Work:
    """Mean, centring, variance, and division by its root, with a scale and a shift if affine.

    Of a group of n: n - 1 additions and one multiplication; n additions; n multiplications, n - 1
    additions and one multiplication; an addition, a root, n multiplications.
    """
    affine = op.numel if op.affine else 0
    return _Work(
        "normalizations", 2 * op.numel + 3 * op.groups + affine, 3 * op.numel - op.groups + affine
    )


_FORMULAS: dict[type, Callable[[Any], _Work]] = {
    records.Activation: _activation,
    records.Softmax: _softmax,
    records.Pool: _pool,
    records.Interpolation: lambda op: _Work(
        "interpolations", op.numel * op.taps, op.numel * (op.taps - 1)
    ),
    records.MatrixProduct: lambda op: _Work(
        "matrix products", op.products, op.products - op.outputs
    ),
    records.Scale: lambda op: _Work("products", op.numel),
    records.Residual: lambda op: _Work("residual additions", 0, op.numel),
    records.BatchNorm: lambda op: _Work("normalizations", op.numel, op.numel),
    records.LayerNorm: _layer_norm,
    records.Permutation: lambda op: _Work("permutations", op.numel),
}
