"""The official rules on small networks, every number derived by hand."""

from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from torch import nn

import micronet.score as score
from micronet.pruning.prune import Masks, layer_groups
from micronet.quantization.quantize import LayerBits
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.scoring.rules.tracks import TRACKS, Track

FOUR = LayerBits(4, 4)
FLOAT = LayerBits(None, None)


def bill(model, size, channels=3, bits=None, sparsities=None, accumulator="32"):
    """Return what a plan stores in bits and what it executes, both by kind."""
    options = {"bits": bits or {}, "sparsities": sparsities or {}, "accumulator": accumulator}
    return sums(score.score_model(model, size, channels, **options))


def actual(model, size, channels, bits=None):
    """Return the score of a network with weights as they are, and the same sums."""
    result = score.score_model(model, size, channels, bits=bits or {}, sparsities=None)
    return (result, *sums(result))


def sums(result):
    stored, executed = defaultdict(Fraction), defaultdict(Fraction)
    for cost in result.stored:
        stored[cost.kind] += cost.used * 32
    for cost in result.executed:
        executed[cost.kind] += cost.used
    return dict(stored), dict(executed)


def test_freebie_of_a_network_that_quantizes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    stored, executed = bill(net, 8)
    # 4*3*3*3 = 108 weights and 4 biases of 16 bits.
    assert stored == {"weights": 108 * 16, "biases": 4 * 16}
    # At 64 positions: 108 products of 16 bits, 4 * (27 - 1) additions and 4 biases of 32, and one
    # comparison of 16 for each of 256 outputs.
    assert executed == {
        "multiplications": 108 * 64 * Fraction(1, 2),
        "additions": 4 * 26 * 64,
        "bias additions": 4 * 64,
        "activations": 256 * Fraction(1, 2),
    }


def test_no_freebie_anywhere_once_anything_is_quantized():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    stored, executed = bill(net, 8, bits={"2": FOUR})
    # Float weights and biases take 32 bits now; the quantized layer 8 weights of 4, two channels'
    # scales of 32 and zero points of 4, one scale and zero point of the input.
    assert stored == {
        "weights": 108 * 32 + 8 * 4,
        "biases": 4 * 32,
        "scales and zero points": 2 * (32 + 4) + (32 + 4),
    }
    # 64 positions: 108 products of 32 bits and 8 of 4; 4 * 26 and 2 * 3 additions.
    assert executed == {
        "multiplications": 108 * 64 + 8 * 64 * Fraction(4, 32),
        "additions": (4 * 26 + 2 * 3) * 64,
        "bias additions": 4 * 64,
        "activations": 256,
    }


def test_the_wider_operand_counts():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))

    def product(weights, inputs):
        return bill(net, 1, 2, {"0": LayerBits(weights, inputs)})[1]["multiplications"]

    # Four products; a float operand makes them whole.
    assert product(3, 5) == 4 * Fraction(5, 32)
    assert product(8, 5) == 4 * Fraction(8, 32)
    assert product(8, None) == product(None, 2) == 4


def test_grouped_convolution():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False))
    stored, executed = bill(net, 5, 4, {"0": FOUR})
    # 6 channels of 2 * 9 = 18 weights; 3 x 3 positions.
    assert stored["weights"] == 108 * 4
    assert executed == {
        "multiplications": 108 * 9 * Fraction(4, 32),
        "additions": 6 * 17 * 9,
    }


def test_strided_depthwise_convolution_with_folded_normalization():
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
    )
    stored, executed = bill(net, 7, 8, {"0": FOUR})
    # 8 channels of 9 weights, one folded bias each; (7 + 2 - 3) // 2 + 1 = 4 positions a side.
    # Nothing of the normalization is left but the biases.
    assert stored == {
        "weights": 72 * 4,
        "biases": 8 * 32,
        "scales and zero points": 8 * 36 + 36,
    }
    assert executed == {
        "multiplications": 72 * 16 * Fraction(4, 32),
        "additions": 8 * 8 * 16,
        "bias additions": 8 * 16,
    }


def test_a_bias_and_a_folded_normalization_are_one_bias():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    stored, executed = bill(net, 1, 2, {"0": FOUR})
    assert (stored["biases"], executed["bias additions"]) == (4 * 32, 4)


def test_a_normalization_before_a_convolution_is_work():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, bias=False))
    stored, executed = bill(net, 2, 3, {"1": FOUR})
    # A scale and a shift a channel; a product and an addition for each of 12 elements.
    assert stored["normalizations"] == 6 * 32 and "biases" not in stored
    assert executed["normalizations"] == 24


class Gate(nn.Module):
    """Squeeze-excite of four channels through one, as EfficientNet's."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(4, 1, 1), nn.Conv2d(1, 4, 1)
        self.swish, self.sigmoid = nn.SiLU(), nn.Sigmoid()

    def forward(self, x):
        gate = self.swish(self.reduce(self.pool(x)))
        return x * self.sigmoid(self.expand(gate))


def test_squeeze_excite():
    stored, executed = bill(Gate(), 5, 4, {"reduce": FOUR, "expand": FLOAT})
    assert stored == {
        "weights": 4 * 4 + 4 * 32,
        "biases": (1 + 4) * 32,
        "scales and zero points": 36 + 36,
    }
    assert executed == {
        # Four averages of 25 pixels: one division and 24 additions each.
        "poolings": 4 + 4 * 24,
        # Four products of 4 bits, four of 32; the second layer has one product an output.
        "multiplications": 4 * Fraction(4, 32) + 4,
        "additions": 3,
        "bias additions": 1 + 4,
        # One swish of 3 + 1, four sigmoids of 2 + 1.
        "activations": 4 + 4 * 3,
        # The gate scales 4 * 25 elements.
        "products": 100,
    }


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)

    def forward(self, x):
        return self.conv(x) + x


def test_residual_addition():
    _, executed = bill(Residual(), 4, 2, {"conv": FOUR})
    # 2 channels of 18 weights at 16 positions, then an addition for each of 32 elements.
    assert executed == {
        "multiplications": 36 * 16 * Fraction(4, 32),
        "additions": 2 * 17 * 16,
        "residual additions": 32,
    }


def test_poolings():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.MaxPool2d(3, 2), nn.AvgPool2d(2))
    result = score.score_model(net, 9, 2, bits={"0": FOUR}, sparsities={})
    work = [(c.name, c.part, c.used) for c in result.executed if c.kind == "poolings"]
    # 9 -> 4 pixels a side: 32 maxima of 9, eight comparisons each; then 4 -> 2: eight averages of
    # four, a division and three additions each.
    assert work == [("1", "multiply", 32 * 8), ("2", "multiply", 8), ("2", "add", 24)]


def test_binary_weights():
    net = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False))
    stored, executed = bill(net, 3, 4, {"0": LayerBits(1, None)})
    # Eight weights of one bit; at 9 positions their products with floats are 1/32 each.
    assert stored == {"weights": 8, "scales and zero points": 2 * (32 + 1)}
    assert executed == {"multiplications": 72 * Fraction(1, 32), "additions": 2 * 3 * 9}
    # Codes have no sign bit of their own: one bit by four counts four.
    _, executed = bill(net, 3, 4, {"0": LayerBits(1, 4)})
    assert executed["multiplications"] == 72 * Fraction(4, 32)


@pytest.mark.parametrize("bits", [2.4, 2.5, 3])
def test_five_levels_take_three_bits(bits):
    net = nn.Sequential(nn.Linear(10, 4, bias=False))
    # A linear layer's input is an image here, of ten columns.
    stored, executed = bill(net, 10, 1, {"0": LayerBits(bits, 2)})
    assert stored["weights"] == 40 * 3
    # Three bits of a zero point too, for each of four channels.
    assert stored["scales and zero points"] == 4 * (32 + 3) + (32 + 2)
    # The layer runs on ten rows.
    assert executed["multiplications"] == 40 * 10 * Fraction(3, 32)


def test_a_bit_mask_where_it_is_smaller():
    net = nn.Sequential(nn.Conv2d(10, 10, 1, bias=False))
    # 100 weights of 4 bits: dense 400 bits; with 25 zeros 75 * 4 + 100 = 400, which is no less;
    # with 26 zeros 396. The 74 others are spread as 8, 8, 8, 8, 7, 7, ...
    assert bill(net, 1, 10, {"0": FOUR}, {"0": 0.25})[0]["weights"] == 400
    stored, executed = bill(net, 1, 10, {"0": FOUR}, {"0": 0.26})
    assert (stored["weights"], stored["masks"]) == (74 * 4, 100)
    # Zeros cost no work either way: 74 products, one addition less for each of ten channels.
    assert executed == {"multiplications": 74 * Fraction(4, 32), "additions": 64}
    assert bill(net, 1, 10, {"0": FOUR}, {"0": 0.25})[1]["additions"] == 65
    result = score.score_model(net, 1, 10, bits={"0": FOUR}, sparsities={"0": 0.26})
    assert [cost.note for cost in result.stored][:2] == ["bit mask, 4 bits", "bit mask"]


def test_a_block_mask_where_it_is_smaller():
    # 512 x 128 weights in 4 x 4 blocks: 4096 blocks, every second of them kept, 16 bits a float as
    # nothing is quantized.
    blocks = torch.arange(128 * 32).view(128, 32) % 2
    weight = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1).float()
    net = nn.Sequential(nn.Conv2d(128, 512, 1, bias=False))
    net[0].weight.data.copy_(weight[:, :, None, None])
    result, stored, _ = actual(net, 1, 128)
    # Whole columns of blocks alternate, so blocks of 16 x 4 hold as much with 1024 bits of mask.
    assert (stored["weights"], stored["masks"]) == (32768 * 16, 1024)
    assert result.stored[1].note == "16x4 block mask"
    # Shifted by a block in every second row of blocks, 4 x 4 is the largest block that fits.
    blocks = (torch.arange(128)[:, None] + torch.arange(32)) % 2
    weight = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1).float()
    net[0].weight.data.copy_(weight[:, :, None, None])
    result, stored, _ = actual(net, 1, 128)
    assert (stored["weights"], stored["masks"]) == (32768 * 16, 4096)
    assert result.stored[1].note == "4x4 block mask"


@pytest.mark.parametrize("kernel, order", [(1, ""), (3, ", channels last")])
def test_pruning_in_blocks_of_1x4_costs_a_quarter_of_the_mask(kernel, order):
    net = nn.Sequential(nn.Conv2d(16, 24, kernel, bias=False))
    group = PruneGroup(("*",), final_sparsity=0.6, structure="1x4")
    section = PruneSection((group,), method="one-shot")
    Masks().update(net, section, layer_groups(net, section), 0)
    blocks = 24 * 4 * kernel**2
    result, stored, _ = actual(net, kernel, 16)
    kept = blocks - int(0.6 * blocks)
    assert (stored["weights"], stored["masks"]) == (4 * kept * 16, blocks)
    assert result.stored[1].note == f"1x4 block mask{order}"


def test_blocks_at_the_edge_are_smaller():
    # 3 x 5 weights, the last column alone not zero: of 1 x 4 blocks the second holds one column.
    net = nn.Sequential(nn.Conv2d(5, 3, 1, bias=False))
    net[0].weight.data.zero_()[:, 4] = 1.0
    _, stored, _ = actual(net, 1, 5)
    # Blocks of 4 x 4 (or 16 x 4, 8 x 4): one of two is kept, of 3 x 1 weights; two bits of mask.
    assert (stored["weights"], stored["masks"]) == (3 * 16, 2)


def test_an_output_channel_of_zeros_adds_nothing():
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    net[0].weight.data.fill_(1.0)[0] = 0.0
    _, _, executed = actual(net, 2, 3)
    # Channel 1: three products, two additions and a bias; channel 0 is its bias; 4 positions.
    assert executed == {
        "multiplications": 12 * Fraction(1, 2),
        "additions": 8,
        "bias additions": 4,
    }


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_shared_weights_are_stored_once_and_used_twice():
    stored, executed = bill(Tied(), 1, 4)
    assert stored["weights"] == 16 * 16
    assert executed["multiplications"] == 2 * 16 * Fraction(1, 2)


def test_other_normalizations_parameters_and_permutations():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shuffle, self.norm = nn.ChannelShuffle(2), nn.LayerNorm(5)
            self.scale = nn.Parameter(torch.ones(6, 1, 1))

        def forward(self, x):
            return self.norm(self.shuffle(x)) * self.scale

    result = score.score_model(Odd(), 5, 6, bits={}, sparsities={})
    stored = {c.name: c.used * 32 for c in result.stored}
    # Indices of 6 channels take 3 bits each; floats 16.
    assert stored == {"scale": 96, "norm.weight": 80, "norm.bias": 80, "shuffle": 18}
    work = {(c.name, c.part): c.used for c in result.executed}
    # 150 elements in 30 rows of 5. A row: mean 4 additions and a product, centring 5 additions,
    # variance 5 products, 4 additions and a product, an addition and a root, 5 products, then scale
    # and shift: 18 products and 19 additions. Products count half.
    assert work == {
        ("shuffle", "multiply"): 75,
        ("norm", "multiply"): 30 * 18 * Fraction(1, 2),
        ("norm", "add"): 30 * 19,
        ("", "multiply"): 75,
    }


def test_scores_divide_by_the_tracks_baselines():
    # The challenge's own example: 3 M parameters and 500 M operations.
    imagenet = TRACKS["imagenet"]
    storage = 3_000_000 / imagenet.baseline_storage
    assert round(storage + 500_000_000 / imagenet.baseline_operations, 3) == Fraction(862, 1000)
    subject = score.describe_network(
        Residual(), 4, 2, bits={}, sparsities={}, rules=score.RULES["micronet"]
    )
    track = Track("test", Fraction(18), Fraction(1000), 1, 1)
    result = score.score_subject(subject, score.RULES["micronet"], track)
    # 36 weights of 16 bits; 576 products of 16 bits, 544 and 32 additions.
    assert result.score == Fraction(18, 18) + Fraction(288 + 544 + 32, 1000)
