"""What the scripts of one 2019 challenge entry (IST) had in common: bits, sums and published text.

The entry scored itself six times in four months, under rules that it changed each time. Every
version is a set of switches over the same formulas (``ist_storage``, ``ist_operations``), kept with
their quirks. Rule sets ``seed``, ``ist-2019-07-26``, ``ist-final`` and ``leaderboard`` are four of
the versions; the others are in the tests, beside the figures that were published for them.

The scripts saw float weights only and took the precision for granted: 4 bits for everything but a
float stem, float biases and the classifier. They knew EfficientNet only. Where they had no rule: an
element-wise addition outside an MBConv block costs what their extra activation inside one does;
any other product, pooling or activation follows the same formulas; entries of normalizations are
stored and element-wise work is done in the bits of the widest quantized activation. The state dict
is the float network's, as theirs was: ranges and learned steps that our quantizers keep beside the
weights, and pruning masks, cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from micronet.quantization.quantize import LayerBits
from micronet.scoring.network.scored_network import ScoredNetwork

# The entry was trained and scored at this size, not at EfficientNet-B1's own 240.
IMAGE_SIZE = 224
ASSUMED_BITS = 4
# A block's operations were summed apart from the network's.
BLOCK = "_blocks."


def assumed_bits(
    layers: Sequence[str], stem: str, classifier: str, classifier_bits: float
) -> dict[str, LayerBits]:
    """Return the precision that the scripts took for granted; the stem is float."""
    bits = {name: LayerBits(ASSUMED_BITS, ASSUMED_BITS) for name in layers if name != stem}
    # Its input was never said to be quantized.
    bits[classifier] = LayerBits(classifier_bits, None)
    return bits


def weight_bits(subject: ScoredNetwork, layer: str, whole: bool) -> Fraction | None:
    """Return the bits of a layer's weights as billed, None where they are float.

    Args:
        subject: the network.
        layer: of it; what is none of its layers is float.
        whole: bill a fractional number of bits as the next whole one, as the organizers asked.
    """
    facts = subject.layers.get(layer)
    bits = facts.bits.weight_bits if facts else None
    if bits is None:
        return None
    # 2.4 in a schedule means 12/5, not the binary fraction nearest to it.
    exact = Fraction(str(bits))
    return Fraction(-(-exact.numerator // exact.denominator)) if whole else exact


def elementwise_bits(subject: ScoredNetwork) -> Fraction | None:
    """Return the bits of the widest quantized activation, None where none is quantized."""
    bits = (facts.bits.activation_bits for facts in subject.layers.values())
    return max((Fraction(str(b)) for b in bits if b is not None), default=None)


def sum_in_blocks(terms: Iterable[tuple[str, np.float32]]) -> int:
    """Return a sum as the scripts had it: float32, blocks apart.

    Each MBConv block summed its own operations in execution order and returned the sum with its
    output; the network added it to a running sum of its own, which began with the stem. Both sums
    were float32, which resolves steps of 8 near 8e7, so the order shows. Networks without such
    blocks have one running sum.

    Args:
        terms: module names and what they cost, in execution order.
    """
    total = subtotal = np.float32(0)
    block = ""
    for name, value in terms:
        here = ".".join(name.split(".")[:2]) if name.startswith(BLOCK) else ""
        if here != block:
            total, subtotal, block = total + subtotal, np.float32(0), here
        if here:
            subtotal += value
        else:
            total += value
    return int(total + subtotal)
