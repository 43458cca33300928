"""Accumulator widths: hand-computed bounds, brute force over inputs and trees, real layers."""

import dataclasses
import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import micronet.score as score
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.scoring.network import accumulators
from micronet.scoring.network.accumulators import addition_bits, prove, signed_width
from micronet.scoring.network.layer_facts import Channel, LayerFacts


def layer(nonzeros, weight_bits=4, input_bits=4, channels=None, input_codes=None):
    shape = (len(nonzeros), max(nonzeros))
    bits = LayerBits(weight_bits, input_bits)
    kept = sum(nonzeros)
    return LayerFacts(
        "a", shape, bits, nonzeros, kept, False, channels=channels, input_codes=input_codes
    )


@pytest.mark.parametrize(
    ("bound", "width"),
    # One bit for the sign; 2^k - 1 is the last number of k bits, 2^k needs one more.
    [(0, 1), (1, 2), (7, 4), (8, 5), (127, 8), (128, 9), (225, 9), (2**31 - 1, 32), (2**31, 33)],
)
def test_widths(bound, width):
    assert signed_width(bound) == width


def test_a_plan_is_proven_by_its_levels():
    # 16 levels by 16: a product is at most 15 * 15 = 225; ten of them 2250 < 4096: 13 bits.
    facts = layer((10, 10, 9))
    proof = prove(facts)
    assert (proof.products, proof.bound, proof.width) == (10, 2250, 13)
    assert proof.source == "worst case of the levels"
    # 9 + 9 + 8 additions; without a proof, 32 bits each.
    assert addition_bits(facts, "proven") == 26 * 13
    assert addition_bits(facts, "32") == 26 * 32
    # 5 levels by 2: 4 * 1 = 4 a product.
    assert prove(layer((10,), 2.4, 1)).bound == 40


def test_a_tree_grows_by_hand():
    # Products of at most 225 take 9 bits, two of them (450) 10, four (900) 11, eight (1800) 12.
    # Ten products: five additions of products; 2 + 2, 2 + 2 and a pair left over; 4 + 4; 8 + 2.
    facts = layer((10,))
    assert addition_bits(facts, "tree") == 5 * 9 + 2 * 10 + 1 * 11 + 1 * 12
    proof = prove(facts)
    # The last addition's wider input is the sum of eight.
    assert proof.tree_width == 12 and proof.tree_mean == pytest.approx(88 / 9)
    assert addition_bits(layer((1,)), "tree") == 0


def test_float_operands_prove_nothing():
    for bits in ((None, 4), (4, None)):
        facts = layer((10,), *bits)
        assert prove(facts).bound is None and prove(facts).width == 32
        assert {addition_bits(facts, kind) for kind in accumulators.KINDS} == {9 * 32}


def brute_tree(products, leaf, bound):
    """Add neighbors level by level and bill each addition at its wider input."""
    level, bits = [1] * products, 0
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        bits += sum(signed_width(min(max(pair) * leaf, bound)) for pair in pairs)
        level = [sum(pair) for pair in pairs] + level[2 * len(pairs) :]
    return bits


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 10**5))
def test_trees_by_brute_force(products, leaf, bound):
    assert accumulators._tree_bits(products, leaf, bound) == brute_tree(products, leaf, bound)


weights = st.lists(st.integers(-7, 7), min_size=1, max_size=3)


@given(weights, st.integers(-3, 0), st.integers(0, 3))
def test_the_bound_is_the_largest_sum_of_any_input(values, low, high):
    channel = Channel(
        sum(v for v in values if v > 0),
        -sum(v for v in values if v < 0),
        max(abs(v) for v in values),
    )
    facts = layer((len(values),), channels=(channel,), input_codes=(low, high))
    inputs = itertools.product(range(low, high + 1), repeat=len(values))
    largest = max(abs(sum(x * v for x, v in zip(xs, values, strict=True))) for xs in inputs)
    assert prove(facts).bound == largest


def quantized(rng, steps):
    """Two quantized layers that have seen data, the second's input being positive."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, groups=1))
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    bits = {n: LayerBits(4, 3, 0.9, steps, steps) for n in ("0", "2")}
    quantize.convert_(net, bits)
    net.train()(torch.randn(2, 3, 8, 8, generator=rng))
    return net.eval(), bits


@pytest.mark.parametrize("steps", ["range", "learned"])
def test_the_integers_of_a_trained_layer(rng, steps):
    net, bits = quantized(rng, steps)
    subject = score.describe_network(
        net, 8, bits=bits, sparsities=None, rules=score.RULES["micronet"]
    )
    for name, facts in subject.layers.items():
        values = net.get_submodule(name).quantized_weight().detach().double().flatten(1)
        for row, channel, nonzero in zip(values, facts.channels, facts.nonzeros, strict=True):
            # Codes span 15 steps; the largest value is a whole number of them.
            magnitude = row.abs().max()
            step = magnitude / channel.largest
            whole = (row / step).round()
            assert torch.allclose(row, whole * step, rtol=1e-5, atol=0)
            assert channel.positive == int(whole.clamp(min=0).sum())
            assert channel.negative == int((-whole).clamp(min=0).sum())
            assert nonzero == int((row != 0).sum())
            if steps == "range":
                assert int(whole.max().clamp(min=0) - whole.min().clamp(max=0)) == 15
    low, high = subject.layers["0"].input_codes
    assert high - low == 7 and low < 0 < high
    # ReLU's outputs are never negative.
    assert subject.layers["2"].input_codes == (0, 7)
    assert prove(subject.layers["2"]).source == "weights and input range"


def test_weights_prove_at_least_as_much_as_levels(rng):
    net, bits = quantized(rng, "range")
    known = score.describe_network(
        net, 8, bits=bits, sparsities=None, rules=score.RULES["micronet"]
    )
    for facts in known.layers.values():
        without_range = dataclasses.replace(facts, input_codes=None)
        worst = dataclasses.replace(facts, channels=None, input_codes=None)
        bounds = [prove(f).bound for f in (facts, without_range, worst)]
        assert bounds == sorted(bounds) and bounds[0] > 0
        assert prove(without_range).source == "weights, worst case of the input"
        for kind in ("proven", "tree"):
            bits_of = [addition_bits(f, kind) for f in (facts, without_range, worst)]
            assert bits_of == sorted(bits_of)


def test_narrow_accumulators_change_the_additions_of_layers_only():
    net = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU())
    bits = {"0": LayerBits(4, 4)}

    def work(kind):
        result = score.score_model(net, 3, 4, bits=bits, sparsities={}, accumulator=kind)
        return {(c.kind, c.part): c.used for c in result.executed}

    full, proven, tree = (work(kind) for kind in accumulators.KINDS)
    # Two channels of four products, at most 900: 11 bits; three additions each, 9 positions.
    assert proven["additions", "add"] == 6 * 9 * Fraction(11, 32)
    # Pairs of products at 9 bits, then 10.
    assert tree["additions", "add"] == 2 * 9 * Fraction(9 + 9 + 10, 32)
    for other in (proven, tree):
        assert {k: v for k, v in other.items() if k != ("additions", "add")} == {
            k: v for k, v in full.items() if k != ("additions", "add")
        }
