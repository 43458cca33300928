"""How wide an accumulator must be: proofs that no sum of a layer can overflow, layer by layer.

A sum of integer products is bounded by the weights alone, whatever the input. A signed accumulator
of ``ceil(log2(bound + 1)) + 1`` bits holds every number up to the bound. Where the weights are
known the bound of an output channel is ``max(P*h + N*l, P*l + N*h)``: P and N are the sums of its
positive and of the magnitudes of its negative integer weights, and the input's integers lie in
``[-l, h]``. In a plan it is the worst case, non-zeros times largest weight times largest input.

Kinds: ``32`` bills every addition of a layer at 32 bits; ``proven`` at the width that holds the
layer's largest bound; ``tree`` adds the products pairwise in a balanced tree whose width grows with
the number of products under a node, as the winner of 2019 (RIAIR) did, each addition billed at the
wider of its two inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from micronet.scoring.network.layer_facts import LayerFacts

KINDS = ("32", "proven", "tree")
FULL = 32


@dataclass(frozen=True)
class Proof:
    """Why the additions of one layer may be billed at a width.

    Attributes:
        products: most products that one output sums.
        bound: largest magnitude of any sum; None where an operand is float.
        width: bits of one accumulator that holds all sums.
        tree_width: bits of the widest input of the last addition of the tree.
        tree_mean: mean bits of the tree's additions, for display.
        source: what the bound was computed from.
    """

    layer: str
    products: int
    bound: int | None
    width: int
    tree_width: int
    tree_mean: float
    source: str


@dataclass(frozen=True)
class _Sum:
    """One output channel: number of products, bound of each, and bound of their sum."""

    products: int
    leaf: int
    bound: int


def signed_width(bound: int) -> int:
    """Return the bits of a signed integer that holds every number of magnitude ``bound`` or less.

    It is ``ceil(log2(bound + 1)) + 1``.
    """
    return bound.bit_length() + 1


def addition_bits(facts: LayerFacts, kind: str) -> int:
    """Return the bits of all additions of one output position, summed over output channels.

    A channel of z non-zero weights has z - 1 additions.
    """
    sums = _sums(facts)
    additions = sum(max(z - 1, 0) for z in facts.nonzeros)
    if sums is None or kind == "32":
        return FULL * additions
    if kind == "proven":
        return _width(sums) * additions
    return sum(_tree_bits(s.products, s.leaf, s.bound) for s in sums)


def prove(facts: LayerFacts) -> Proof:
    """Return the proof of one layer; with a float operand nothing is proven, the width is 32."""
    sums = _sums(facts)
    products = max(facts.nonzeros, default=0)
    if sums is None:
        return Proof(facts.name, products, None, FULL, FULL, float(FULL), "a float operand")
    additions = sum(max(z - 1, 0) for z in facts.nonzeros)
    bits = sum(_tree_bits(s.products, s.leaf, s.bound) for s in sums)
    return Proof(
        facts.name,
        products,
        max(s.bound for s in sums),
        _width(sums),
        max(_root_width(s) for s in sums),
        bits / additions if additions else 0.0,
        _source(facts),
    )


def _source(facts: LayerFacts) -> str:
    if facts.channels is None:
        return "worst case of the levels"
    return "weights and input range" if facts.input_codes else "weights, worst case of the input"


def _width(sums: Sequence[_Sum]) -> int:
    return signed_width(max(s.bound for s in sums))


def _sums(facts: LayerFacts) -> list[_Sum] | None:
    """Return the sums of every output channel, None where an operand is float."""
    weight_levels, input_levels = facts.bits.weight_levels, facts.bits.activation_levels
    if weight_levels is None or input_levels is None:
        return None
    if facts.channels is None:
        leaf = (weight_levels - 1) * (input_levels - 1)
        return [_Sum(z, leaf, z * leaf) for z in facts.nonzeros]
    # Without its range an input's integers lie anywhere in [-n, n].
    low, high = facts.input_codes or (1 - input_levels, input_levels - 1)
    below, above = -low, high
    return [
        _Sum(
            z,
            c.largest * max(below, above),
            max(c.positive * above + c.negative * below, c.positive * below + c.negative * above),
        )
        for z, c in zip(facts.nonzeros, facts.channels, strict=True)
    ]


def _node_width(products: int, leaf: int, bound: int) -> int:
    # A part of a sum is no larger than the whole can be, because the input may be 0 elsewhere.
    return signed_width(min(products * leaf, bound))


def _root_width(s: _Sum) -> int:
    if s.products < 2:
        return 0
    largest_half = 1 << (s.products - 1).bit_length() - 1
    return _node_width(largest_half, s.leaf, s.bound)


@cache
def _tree_bits(products: int, leaf: int, bound: int) -> int:
    """Return the bits of the products - 1 additions of a balanced tree.

    On each level neighbors are added; a node without one waits for the next level.
    """
    bits, nodes, size, rest = 0, products, 1, 0
    while nodes + (rest > 0) > 1:
        width = _node_width(size, leaf, bound)
        pairs, single = divmod(nodes, 2)
        bits += pairs * width
        if single:
            # The single node is wider than what waits from the levels below it.
            bits += width if rest else 0
            rest += size
        nodes, size = pairs, 2 * size
    return bits
