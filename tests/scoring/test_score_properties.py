"""What must hold of any network under the official rules."""

import dataclasses
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

import micronet.score as score
from micronet.quantization.quantize import LayerBits
from micronet.scoring.network import accumulators
from micronet.scoring.network.layer_facts import spread
from micronet.scoring.operations.records import Conv, Linear
from micronet.scoring.rules import official

KINDS = st.sampled_from(accumulators.KINDS)
BITS = st.sampled_from([None, 4.0, 5.0])
# Whole numbers of four bits, many of them zero: on a grid, and of every layout.
WEIGHTS = arrays.arrays(np.int8, (6, 2, 3, 3), elements=st.sampled_from([0, 0, 0, 1, 2, 7, 8]))
EXAMPLES = settings(max_examples=40)


def network(first, second):
    """A grouped convolution, its normalization and activation, and a linear layer."""
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 6),
    )
    net[0].weight.data.copy_(torch.from_numpy(first))
    net[5].weight.data.copy_(torch.from_numpy(second[:, 0].reshape(6, 9)[:, :6].copy()))
    return net


def counted(net, weight_bits, input_bits, kind):
    """Return the score of a network as it is, whose inputs are said to be quantized too."""
    bits = {"0": LayerBits(weight_bits, None), "5": LayerBits(weight_bits, None)}
    subject = score.describe_network(net, 5, 4, bits=bits, sparsities=None, rules=official)
    layers = {
        name: dataclasses.replace(f, bits=dataclasses.replace(f.bits, activation_bits=input_bits))
        for name, f in subject.layers.items()
    }
    subject = dataclasses.replace(subject, layers=layers, accumulator=kind)
    return score.score_subject(subject, official)


@EXAMPLES
@given(WEIGHTS, WEIGHTS, BITS, BITS, KINDS, st.randoms(use_true_random=False))
def test_permuting_output_channels_changes_nothing(first, second, weights, inputs, kind, random):
    net = network(first, second)
    before = counted(net, weights, inputs, kind)
    order = list(range(6))
    random.shuffle(order)
    net[5].weight.data.copy_(net[5].weight.data[order])
    after = counted(net, weights, inputs, kind)
    # Blocks of several channels depend on the order; what is stored without them does not.
    assert after.operations == before.operations
    assert [c.used for c in after.stored if c.kind not in ("weights", "masks")] == [
        c.used for c in before.stored if c.kind not in ("weights", "masks")
    ]
    if not any("block" in c.note for c in (*before.stored, *after.stored)):
        assert after.score == before.score


@EXAMPLES
@given(WEIGHTS, WEIGHTS, BITS, BITS, KINDS, st.integers(0, 107))
def test_adding_a_zero_never_raises_the_score(first, second, weights, inputs, kind, place):
    net = network(first, second)
    before = counted(net, weights, inputs, kind)
    net[0].weight.data.view(-1)[place] = 0.0
    net[5].weight.data.view(-1)[place % 36] = 0.0
    after = counted(net, weights, inputs, kind)
    assert after.storage <= before.storage and after.operations <= before.operations


@EXAMPLES
@given(st.integers(0, 108), BITS, BITS, KINDS)
def test_adding_a_zero_to_a_plan_never_raises_the_score(kept, weights, inputs, kind):
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=True))
    bits = {"0": LayerBits(weights, inputs)}

    def planned(nonzeros):
        subject = score.describe_network(net, 5, 4, bits=bits, sparsities={}, rules=official)
        facts = dataclasses.replace(
            subject.layers["0"], kept=nonzeros, nonzeros=spread(nonzeros, 6)
        )
        subject = dataclasses.replace(subject, layers={"0": facts}, accumulator=kind)
        return score.score_subject(subject, official)

    assert planned(max(kept - 1, 0)).score <= planned(kept).score


@EXAMPLES
@given(WEIGHTS, BITS, BITS, KINDS, st.integers(2, 4))
def test_merging_equal_layers_adds_up(first, weights, inputs, kind, copies):
    """A layer of n times the same output channels does and stores n times as much."""

    def one(times):
        net = nn.Sequential(nn.Conv2d(2, 6 * times, 3))
        net[0].weight.data.copy_(torch.from_numpy(np.concatenate([first] * times)))
        bits = {"0": LayerBits(weights, None)}
        subject = score.describe_network(net, 5, 2, bits=bits, sparsities=None, rules=official)
        facts = subject.layers["0"]
        precision = dataclasses.replace(facts.bits, activation_bits=inputs)
        # Blocks of rows may join channels of two copies.
        facts = dataclasses.replace(facts, bits=precision, blocks=())
        subject = dataclasses.replace(subject, layers={"0": facts}, accumulator=kind)
        return score.score_subject(subject, official)

    single, merged = one(1), one(copies)
    assert merged.operations == copies * single.operations
    # The quantizer of the input is one, however many channels read it.
    shared = Fraction(0) if inputs is None else 1 + Fraction(int(inputs), 32)
    assert merged.storage - shared == copies * (single.storage - shared)


@EXAMPLES
@given(WEIGHTS, WEIGHTS, BITS, BITS, KINDS)
def test_totals_are_exact_sums_of_rationals(first, second, weights, inputs, kind):
    result = counted(network(first, second), weights, inputs, kind)
    rows = result.rows()
    for costs, name in ((result.stored, "storage"), (result.executed, "operations")):
        assert all(isinstance(c.used, Fraction) and isinstance(c.dense, Fraction) for c in costs)
        assert all(c.used >= 0 for c in costs)
        assert sum(c.used for c in costs) == getattr(result, name)
        assert sum(getattr(row, name) for row in rows) == getattr(result, name)
    assert sum(row.score for row in rows) == result.score
    assert isinstance(result.score, Fraction)


def test_a_network_run_twice_does_twice_the_work():
    class Repeated(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.layers, self.times = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), times

        def forward(self, x):
            for _ in range(self.times):
                x = self.layers(x)
            return x

    once, thrice = (score.score_model(Repeated(n), 6, bits={}, sparsities={}) for n in (1, 3))
    assert thrice.operations == 3 * once.operations
    assert thrice.storage == once.storage
    assert sum(isinstance(op, (Conv, Linear)) for op in thrice.ops) == 3
