"""Pruning in pieces: every mask against one chosen by a plain loop."""

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.pruning import patterns, prune
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.utils.errors import UserError

SHAPES = [(8, 8, 3, 3), (5, 7, 1, 1), (6, 1, 5, 5), (10, 13), (1, 1)]


def whole(bits, shape):
    return kernels.unpack_bits(bits, torch.Size(shape).numel()).view(shape)


def loop_mask(weight, structure, count):
    """Prune the count pieces of the lowest mean magnitude, lower index first."""
    rows, columns = patterns.block_size(structure)
    pieces = {}
    for index in range(weight.numel()):
        outer, rest = divmod(index, weight[0].numel())
        inner, position = divmod(rest, weight[0, 0].numel())
        product = position * weight.shape[1] + inner
        key = {"element": index, "filter": outer, "channel": inner}.get(structure)
        if key is None:
            across = -(-weight[0].numel() // columns)
            key = outer // rows * across + product // columns
        pieces.setdefault(key, []).append(index)
    flat = weight.flatten().double().abs()
    mean = {key: torch.tensor(float(flat[members].mean())) for key, members in pieces.items()}
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    for key in sorted(pieces, key=lambda k: (float(mean[k]), k))[:count]:
        keep[pieces[key]] = False
    return keep.view_as(weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "structure", ["element", "filter", "channel", "1x1", "4x1", "1x4", "3x2", "16x1"]
)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_pieces_match_the_loop(shape, structure, sparsity):
    weight = torch.randn(shape)
    group = PruneGroup(("*",), final_sparsity=sparsity, structure=structure)
    bits = prune.choose_together({"w": weight}, group, sparsity)["w"]
    count = int(sparsity * patterns.pieces(shape, structure))
    assert torch.equal(whole(bits, shape), loop_mask(weight, structure, count))


@pytest.mark.parametrize("shape", [(8, 8, 1, 1), (8, 8, 3, 3), (8, 6, 3, 3), (4, 3, 5, 5), (5, 9)])
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9])
def test_blocks_of_1x4_are_what_the_convolution_of_codes_skips(shape, sparsity):
    group = PruneGroup(("*",), final_sparsity=sparsity, structure="1x4")
    bits = prune.choose_together({"w": torch.randn(shape)}, group, sparsity)["w"]
    # A product's place is that of its position and then of its channel: pack_panels, csrc/cpu.
    fours = []
    for output in whole(bits, shape):
        positions = output.reshape(shape[1], -1)
        row = [bool(positions[c, p]) for p in range(positions.shape[1]) for c in range(shape[1])]
        fours += [row[k : k + 4] for k in range(0, len(row), 4)]
    assert all(all(four) or not any(four) for four in fours)
    assert sum(not any(four) for four in fours) == int(sparsity * len(fours))


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (3, 12), (2, 4, 1, 1)])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_n_of_m_prunes_the_same_number_of_every_four_inputs(shape, count):
    weight = torch.randn(shape)
    keep = whole(patterns.every_group(weight, 4, count), shape)
    groups = keep.movedim(1, -1).reshape(-1, 4)
    magnitudes = weight.abs().movedim(1, -1).reshape(-1, 4)
    assert bool(((~groups).sum(1) == count).all())
    if 0 < count < 4:
        pruned = magnitudes.masked_fill(groups, -1).amax(1)
        kept = magnitudes.masked_fill(~groups, torch.inf).amin(1)
        assert bool((pruned <= kept).all())


def test_ties_prune_the_lower_input_first():
    keep = whole(patterns.every_group(torch.ones(2, 4), 4, 2), (2, 4))
    assert keep.tolist() == [[False, False, True, True]] * 2


def net():
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 5))


def section(method="gradual", **group):
    return PruneSection(
        (PruneGroup(("*",), **group),), end_epoch=5 if method == "gradual" else None, method=method
    )


def fire(model, s, masks=None):
    masks, groups = masks or prune.Masks(), prune.layer_groups(model, s)
    for epoch in range(6):
        masks.update(model, s, groups, epoch)
        with torch.no_grad():
            for layer in architectures.layers(model).values():
                layer.weight += 0.1 * torch.randn_like(layer.weight)
        masks.apply_(model)
    return masks


@pytest.mark.parametrize("structure", ["element", "filter", "channel", "4x1", "2:4"])
def test_masks_only_grow_and_end_at_the_target(structure):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1, bias=False))
    s = section(structure=structure, final_sparsity=0.5)
    masks, groups = prune.Masks(), prune.layer_groups(model, s)
    before = {}
    for epoch in range(6):
        masks.update(model, s, groups, epoch)
        for name, bits in masks.bits.items():
            # A bit that is 0 stays 0.
            assert torch.equal(bits & before.get(name, bits), bits)
        before = dict(masks.bits)
        with torch.no_grad():
            for layer in architectures.layers(model).values():
                layer.weight += 0.1 * torch.randn_like(layer.weight)
        masks.apply_(model)
    for name, layer in architectures.layers(model).items():
        assert masks.pruned(name, layer.weight.numel()) >= layer.weight.numel() // 2
    if structure in ("element", "2:4"):
        assert prune.sparsity(model) == 0.5


def test_one_threshold_for_all_layers_of_a_group():
    model = net()
    with torch.no_grad():
        model[1].weight *= 0.01
    fire(model, section("one-shot", final_sparsity=0.1, scope="group"))
    counts = [int((layer.weight == 0).sum()) for layer in architectures.layers(model).values()]
    total = sum(layer.weight.numel() for layer in architectures.layers(model).values())
    assert sum(counts) == int(0.1 * total)
    assert counts[1] > 0.5 * sum(counts)


def test_threshold_and_sensitivity():
    model = net()
    first, last = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    groups = (PruneGroup(("0",), threshold=0.05), PruneGroup(("2",), sensitivity=0.8))
    s = PruneSection(groups, method="one-shot")
    masks = prune.Masks()
    masks.update(model, s, prune.layer_groups(model, s), 0)
    assert torch.equal(model[0].weight != 0, first.abs() > 0.05)
    assert torch.equal(model[2].weight != 0, last.abs() > 0.8 * float(last.double().std()))
    with pytest.raises(UserError, match="depends on the trained weights"):
        prune.final_sparsities(model, s)


def test_groups_have_epochs_of_their_own():
    groups = (
        PruneGroup(("0",), final_sparsity=0.5),
        PruneGroup(("1",), final_sparsity=0.5, start_epoch=4, end_epoch=9, frequency=2),
    )
    s = PruneSection(groups, end_epoch=3)
    assert list(prune.firing_epochs(s, groups[1])) == [4, 6, 8]
    assert prune.last_firing_epoch(s) == 8
    masks, model = prune.Masks(), net()
    masks.update(model, s, prune.layer_groups(model, s), 0)
    assert masks.bits.keys() == {"0"}
    masks.update(model, s, prune.layer_groups(model, s), 4)
    assert masks.bits.keys() == {"0", "1"}


def test_planned_zeros_are_those_of_the_masks():
    model, s = net(), section(structure="4x1", final_sparsity=0.37)
    planned = prune.final_sparsities(model, s)
    masks = fire(model, section("one-shot", structure="4x1", final_sparsity=0.37))
    for name, layer in architectures.layers(model).items():
        numel = layer.weight.numel()
        if layer.weight.shape[0] % 4 == 0:
            assert prune.pruned_weights(numel, planned[name]) == masks.pruned(name, numel)


def test_layer_without_such_pieces_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(UserError, match=r"groups\[0\].structure '2:4': layer '0' has 3 input"):
        prune.layer_groups(model, section(structure="2:4"))
