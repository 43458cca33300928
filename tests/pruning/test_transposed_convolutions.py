"""A transposed convolution keeps its inputs in front: outputs are outputs all the same."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet.cli import summary
from micronet.pruning import patterns, prune
from micronet.quantization.precision import LayerBits
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.scoring.network import layer_facts
from micronet.training import sensitivity
from micronet.training.evaluation import Accuracy
from micronet.utils.errors import UserError

FLOAT = LayerBits(None, None)
KINDS = {
    "1d": lambda: nn.ConvTranspose1d(8, 12, 3),
    "2d": lambda: nn.ConvTranspose2d(8, 12, 2, stride=2),
    "2d in groups": lambda: nn.ConvTranspose2d(8, 12, 3, groups=4),
    "3d": lambda: nn.ConvTranspose3d(8, 12, 2),
}


def pruned(layer, structure, **options):
    model, masks = nn.Sequential(layer), prune.Masks()
    options = {"final_sparsity": 0.5, "structure": structure} | options
    section = PruneSection((PruneGroup(("0",), **options),), method="one-shot")
    masks.update(model, section, prune.layer_groups(model, section), 0)
    return section, model


def outputs_of(layer, x):
    """What each output channel is for an input, without the bias."""
    with torch.no_grad():
        layer.bias.zero_()
        return layer(x).abs().movedim(1, 0).flatten(1).sum(1)


def image(layer, channels=8):
    return torch.randn(1, channels, *[6] * (layer.weight.dim() - 2))


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_outputs(kind):
    layer = KINDS[kind]()
    pruned(layer, "filter")
    assert int((outputs_of(layer, image(layer)) == 0).sum()) == 6


@pytest.mark.parametrize("kind", ["1d", "2d", "3d"])
def test_channels_are_inputs(kind):
    layer = KINDS[kind]()
    pruned(layer, "channel")
    silent = 0
    for channel in range(8):
        x = torch.zeros_like(image(layer))
        x[:, channel] = 1.0
        silent += float(outputs_of(layer, x).sum()) == 0
    assert silent == 4


def test_channels_in_groups_are_the_same_input_of_every_group():
    layer = KINDS["2d in groups"]()
    pruned(layer, "channel")
    # Groups of two inputs: one of them is left to each.
    kept = (layer.weight.abs().sum((1, 2, 3)) != 0).view(4, 2)
    assert kept.sum(0).tolist() in ([4, 0], [0, 4])


@pytest.mark.parametrize("kind", KINDS)
def test_exchanging_twice_changes_nothing(kind):
    layer = KINDS[kind]()
    rows = patterns.outputs_first(layer.weight, layer)
    assert rows.shape == patterns.outputs_first_shape(layer)
    assert rows.shape[:2] == (12, 8 // layer.groups)
    assert torch.equal(patterns.outputs_first(rows, layer), layer.weight)
    bits = kernels.pack_bits(rows > 0)
    stored = kernels.unpack_bits(patterns.stored_bits(bits, layer), rows.numel())
    assert torch.equal(stored.view(layer.weight.shape), layer.weight > 0)


def test_rows_in_groups_are_what_a_plain_loop_finds():
    layer = KINDS["2d in groups"]()
    rows = patterns.outputs_first(layer.weight, layer)
    for output in range(12):
        group, inside = divmod(output, 3)
        for number in range(2):
            assert torch.equal(rows[output, number], layer.weight[group * 2 + number, inside])


@pytest.mark.parametrize("structure", ["element", "filter", "channel", "4x1", "2:4"])
@pytest.mark.parametrize("scope", ["layer", "group"])
def test_the_same_pieces_as_of_a_convolution_of_the_same_weights(structure, scope):
    if structure == "2:4" and scope == "group":
        return
    layer, plain = nn.ConvTranspose2d(8, 12, 3), nn.Conv2d(8, 12, 3)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.transpose(0, 1))
    sparsity = None if structure == "2:4" else 0.5
    for each in (layer, plain):
        pruned(each, structure, scope=scope, final_sparsity=sparsity)
    assert 0 < int((plain.weight == 0).sum())
    assert torch.equal(layer.weight.transpose(0, 1), plain.weight)


def test_counts_go_by_outputs():
    layer = KINDS["2d"]()
    section, model = pruned(layer, "filter")
    facts = layer_facts.actual("0", layer, FLOAT, "here")
    assert facts.shape == (12, 8, 2, 2)
    assert sorted(facts.nonzeros) == [0] * 6 + [32] * 6
    assert any((blocks.rows, blocks.kept_values) == (1, 6 * 32) for blocks in facts.blocks)
    share = prune.final_sparsities(model, section)["0"]
    planned = layer_facts.planned("0", layer, FLOAT, 384 - prune.pruned_weights(384, share))
    assert (planned.kept, len(planned.nonzeros)) == (192, 12)
    assert np.ptp(planned.nonzeros) == 0


def test_groups_of_inputs_must_divide():
    model = nn.Sequential(nn.ConvTranspose2d(6, 8, 2))
    group = PruneGroup(("0",), structure="2:4")
    with pytest.raises(UserError, match="has 6 input channels"):
        prune.layer_groups(model, PruneSection((group,), method="one-shot"))


def test_a_scan_prunes_outputs():
    model = nn.Sequential(KINDS["2d"]())
    found = []

    def evaluate(network, batches):
        weight = network[0].weight
        found.append(int((weight.abs().sum((0, 2, 3)) == 0).sum()))
        return Accuracy(0, 0, 1, 0, 0.0)

    sensitivity.scan(model, list, ["*"], "filter", [0.25, 0.5], evaluate)
    assert found == [0, 3, 6]


def test_a_summary_shows_outputs_first():
    model = nn.Sequential(nn.ConvTranspose2d(3, 12, 2))
    text = summary.layer_table(model, copy.deepcopy(model).to("meta"), 8)
    assert text.splitlines()[1].split()[:3] == ["0", "ConvTranspose2d", "12x3x2x2"]
