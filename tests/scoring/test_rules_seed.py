"""Rule set seed and its relatives: small networks by hand, their quirks, their float32 sums."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import micronet.score as score
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.scoring.operations.records import (
    Activation,
    BatchNorm,
    Conv,
    Linear,
    Pool,
    Residual,
    Scale,
)
from micronet.scoring.rules import ist
from micronet.scoring.rules.ist_versions import SEED
from micronet.utils.errors import UserError


def small_net():
    """A stem, a depthwise layer with a bias and a classifier; 4x4 images."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


PLANNED = {"3": 0.5, "7": 0.25}


def test_storage_and_operations_of_a_small_network_by_hand():
    result = score.score_model(small_net(), 4, sparsities=PLANNED, rules=SEED)
    # Non-zero weights: 108 of the stem, 36 - int(.5 * 36) = 18, and 20 - int(.25 * 20) = 15.
    assert result.subject.nonzeros == {"0": 108, "3": 18, "7": 15}
    assert result.sparsity == 1 - Fraction(108 + 18 + 15, 108 + 36 + 20)
    # 16-bit words. The stem is float; 4 bits are a quarter of a word, the classifier's are 2.4/16;
    # biases are float, BatchNorm's other entries 4-bit: weight, mean, variance, and one counter.
    stem, norm, depthwise, classifier = 108, 3 + Fraction(1, 4), Fraction(18, 4), Fraction(9, 4)
    assert result.storage == stem + norm + 4 + depthwise + 4 + classifier + 5
    assert result.storage_dense == 108 + (3 * 4 + 1) + 4 + 36 + 4 + 20 + 5
    # At 16 positions. Behind the float stem BatchNorm and ReLU are float (64 elements each); the
    # depthwise layer is billed 18 * 16 / 4 groups at a quarter, its bias in full; then a ReLU of
    # 64 elements, a pooling of 64, and the classifier with its bias.
    depthwise = Fraction(18 * 16, 4) / 4 + 16 * 4
    classifier = 15 * Fraction(12, 5) / 16 + 5
    expected = [108 * 16, 64, 64, depthwise, 16, 16, classifier]
    assert [cost.used for cost in result.executed] == expected
    expected = [108 * 16, 64, 64, 36 * 16 // 4 + 64, 64, 64, 25]
    assert [cost.dense for cost in result.executed] == expected
    assert result.operations == sum(cost.used for cost in result.executed)
    by_hand = result.storage / 6_900_000 + result.operations / 1_170_000_000
    assert result.score == by_hand


def test_recorded_bits_replace_the_assumed_ones():
    bits = {"0": LayerBits(8, 8), "3": LayerBits(4, 2), "7": LayerBits(2.4, None)}
    result = score.score_model(small_net(), 4, bits=bits, sparsities=PLANNED, rules=SEED)
    # Element-wise work and BatchNorm follow the widest activation, 8 bits, half a word.
    norm = Fraction(13, 2)
    stored = Fraction(108, 2) + norm + 4 + Fraction(18, 4) + 4 + Fraction(9, 4) + 5
    assert result.storage == stored
    depthwise = Fraction(18 * 16, 4) / 4 + 16 * 4
    classifier = 15 * Fraction(12, 5) / 16 + 5
    assert result.operations == 54 * 16 + 32 + 32 + depthwise + 32 + 32 + classifier


def test_float_networks_are_billed_whole_words():
    result = score.score_model(small_net(), 4, bits={}, sparsities={}, rules=SEED)
    assert (result.storage, result.operations) == (result.storage_dense, result.operations_dense)


def test_quirks_of_efficientnet_blocks():
    ops = [
        Conv("_blocks.3._project_conv", 8, 4, 1, (1, 1), 4, False),
        BatchNorm("_blocks.3._bn2", 16, 4),
        Residual("_blocks.3", 16),
        Activation("_blocks.4", "sigmoid", 6),
        Scale("_blocks.4", 96),
        Activation("other", "sigmoid", 6),
        Pool("other", "average", 96, 6, 96),
        Residual("other", 6),
        Linear("head", 6, 2, 3, False),
    ]
    model = nn.ModuleDict({"a": nn.Conv2d(8, 4, 1, bias=False), "b": nn.Linear(6, 2, bias=False)})
    sparsities = {"a": 12.5 / 32, "b": 5.5 / 12}
    bits = {"a": LayerBits(4, 4)}
    subject = score.describe_network(model, 4, bits=bits, sparsities=sparsities, rules=SEED)
    names = {"_blocks.3._project_conv": "a", "head": "b"}
    layers = {name: subject.layers[own] for name, own in names.items()}
    subject = dataclasses.replace(subject, layers=layers)
    costs = SEED.operations(subject, ops)
    # The addition in a block is its extra activation, the gate's sigmoid its product.
    assert [(cost.name, cost.kind, cost.dense, cost.used) for cost in costs] == [
        ("_blocks.3._project_conv", "convolution", 32 * 4, 20),
        ("_blocks.3._bn2", "normalization", 16, 4),
        ("_blocks.3._bn2 (block output)", "activation", 16, 4),
        ("_blocks.4", "activation", 96, 24),
        ("other", "activation", 6, Fraction(3, 2)),
        ("other", "pooling", 96, 24),
        ("other", "activation", 6, Fraction(3, 2)),
        ("head", "linear", 12 * 3, 7 * 3),
    ]


def test_published_sum_adds_blocks_before_the_network():
    def terms(*named):
        return [(name, np.float32(value)) for name, value in named]

    # float32 holds every integer up to 2^24 and only even ones above: 1 + 1 survives as 2.
    big = 2**24
    assert ist.sum_in_blocks(terms(("stem", big), ("a", 1), ("b", 1))) == big
    in_a_block = terms(("stem", big), ("_blocks.0.a", 1), ("_blocks.0.b", 1))
    assert ist.sum_in_blocks(in_a_block) == big + 2
    two_blocks = terms(("stem", big), ("_blocks.0.a", 1), ("_blocks.1.b", 1), ("head", 0))
    assert ist.sum_in_blocks(two_blocks) == big


def test_later_versions_of_a_small_network_by_hand():
    result = score.score_model(small_net(), 4, sparsities=PLANNED, rules=score.RULES["ist-final"])
    # In units of 32 bits. The stem: 108 products and 107 additions at 16 positions, and one
    # addition a position for its bias; three operations for each of 64 ReLUs behind it.
    stem = [108 * 16 + 107 * 16 + 16, 3 * 64]
    # Depthwise, 18 weights kept, divided by four groups: products in 4 of 32 bits, additions whole.
    depthwise = [Fraction(18 * 16, 4) / 8 + Fraction(17 * 16, 4) + 16, Fraction(3 * 64, 8)]
    # Products of the classifier in 3 bits and five biases, then fifteen additions and five biases.
    rest = [Fraction(64, 8), 15 * Fraction(3, 32) + 5 + 15 + 5]
    assert [cost.used for cost in result.executed] == [*stem, *depthwise, *rest]
    # Stem 16 bits a weight, dense, and a folded bias of 4 at 16; depthwise 4 bits a kept weight, a
    # mask of 36, its own bias at 16; classifier 3 bits, a mask of 20, five biases at 16.
    bits = [108 * 16, 4 * 16, 18 * 4 + 36, 4 * 16, 15 * 3 + 20, 5 * 16]
    assert [cost.used * 32 for cost in result.stored] == bits
    # BatchNorm's own entries are not stored; a folded bias is as sparse as its layer.
    stem_too = score.score_model(
        small_net(), 4, sparsities={"0": 0.5}, rules=score.RULES["ist-final"]
    )
    assert [c.used * 32 for c in stem_too.stored][:2] == [54 * 16 + 108, 2 * 16 + 4]
    leaderboard = score.score_model(
        small_net(), 4, sparsities=PLANNED, rules=score.RULES["leaderboard"]
    )
    assert leaderboard.operations - result.operations == 3 * 64 - Fraction(3 * 64, 8)


def test_permuting_channels_changes_nothing(rng):
    for trial in range(5):
        model = random_net(rng, trial)
        before = score.score_model(model, 5, rules=SEED)
        for layer in architectures.layers(model).values():
            weight = layer.weight.detach()
            weight.copy_(weight[torch.randperm(len(weight), generator=rng)])
        after = score.score_model(model, 5, rules=SEED)
        assert (after.score, after.storage) == (before.score, before.storage)


def test_adding_a_zero_never_raises_the_score(rng):
    for trial in range(5):
        model = random_net(rng, trial)
        for layer in architectures.layers(model).values():
            before = score.score_model(model, 5, rules=SEED)
            weight = layer.weight.detach().view(-1)
            weight[torch.randint(len(weight), (), generator=rng)] = 0.0
            after = score.score_model(model, 5, rules=SEED)
            changed = before.nonzeros - after.nonzeros
            assert changed in (0, 1)
            assert after.score <= before.score
            assert (after.score < before.score) == (changed == 1)


def random_net(rng, trial):
    width = 2 + 2 * trial
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 2, groups=2),
        nn.Flatten(),
        nn.Linear(width, 3),
    )
    for parameter in model.parameters():
        random = torch.randn(parameter.shape, generator=rng)
        parameter.detach().copy_(random * (torch.rand(parameter.shape, generator=rng) < 0.7))
    return model


def test_bits_are_parsed_as_decimals():
    bits = {"0": LayerBits(2.4, None), "3": LayerBits(None, 3)}
    subject = score.describe_network(small_net(), 4, bits=bits, sparsities={}, rules=SEED)
    assert ist.weight_bits(subject, "0", whole=False) == Fraction(12, 5) != Fraction(2.4)
    assert ist.weight_bits(subject, "0", whole=True) == 3
    assert ist.weight_bits(subject, "3", whole=True) is None
    assert ist.elementwise_bits(subject) == 3


def test_claims_must_hold():
    model = small_net()
    with pytest.raises(UserError, match="layer '3' is recorded as 4-bit weights and 4-bit inputs"):
        score.score_model(model, 4, bits={"3": LayerBits(4, 4)})
    quantize.convert_(model, {"3": LayerBits(4, 4)})
    assert score.score_model(model, 4, bits={"3": LayerBits(4, 4)}).storage > 0
    with pytest.raises(UserError, match="is recorded as float weights and float inputs, but is 4"):
        score.score_model(model, 4, bits={})
    with pytest.raises(UserError, match="'fc' is no layer"):
        score.score_model(model, 4, sparsities={"fc": 0.5})


def test_quantizers_cost_no_storage():
    model = small_net()
    before = score.score_model(model, 4, rules=SEED)
    quantize.convert_(model, {name: LayerBits(4, 4) for name in architectures.layers(model)})
    assert len(model.state_dict()) > len(before.stored)
    after = score.score_model(model, 4, rules=SEED)
    assert [cost.name for cost in after.stored] == [cost.name for cost in before.stored]
    assert after.storage == before.storage
