"""Gradual pruning: the published targets, the layer groups, and masks that hold."""

import json

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.pruning import prune
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.utils.errors import UserError
from paths import DATA


def section(layers=("*",), final=0.6, initial=0.05, start=0, end=5, frequency=2):
    group = PruneGroup(tuple(layers), final_sparsity=final, initial_sparsity=initial)
    return PruneSection((group,), end_epoch=end, start_epoch=start, frequency=frequency)


def test_every_published_target_at_every_firing_epoch():
    policies = json.loads((DATA / "distiller_agp.json").read_text())
    assert policies
    for p in policies:
        s = section(
            final=p["final"],
            initial=p["initial"],
            start=p["starting_epoch"],
            end=p["ending_epoch"],
            frequency=p["frequency"],
        )
        ours = [[e, prune.target_sparsity(s, s.groups[0], e)] for e in prune.firing_epochs(s)]
        assert ours == p["targets"]


@pytest.mark.parametrize("start,end,frequency", [(0, 20, 2), (3, 31, 1), (0, 1, 1), (2, 9, 4)])
def test_last_firing_epoch_is_exactly_the_final_sparsity(start, end, frequency):
    s = section(final=0.7, start=start, end=end, frequency=frequency)
    targets = [prune.target_sparsity(s, s.groups[0], e) for e in prune.firing_epochs(s)]
    assert targets[-1] == 0.7
    assert targets == sorted(targets)


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 5)
    )


def test_exact_name_beats_glob_and_first_glob_wins():
    groups = (
        PruneGroup(("*",), final_sparsity=0.5),
        PruneGroup(("2",), final_sparsity=0.9),
        PruneGroup(("[03]",), final_sparsity=0.2),
    )
    s = PruneSection(groups, end_epoch=1)
    assert prune.final_sparsities(net(), s) == {"0": 0.5, "2": 0.9, "3": 0.5}


@pytest.mark.parametrize("layers", [("conv9",), ("0", "nothing*")])
def test_pattern_without_a_layer_is_an_error(layers):
    with pytest.raises(UserError, match=r"recipe.yaml: prune.groups\[0\].layers"):
        prune.layer_groups(net(), section(layers), "recipe.yaml")


def test_schedule_that_prunes_no_weight_is_an_error():
    tiny = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="prunes no weight"):
        prune.layer_groups(tiny, section(final=0.6))


def test_masks_hold_the_target_and_stay_through_steps():
    model = net()
    s = section(("0", "2"), final=0.6, end=3, frequency=1)
    groups = prune.layer_groups(model, s)
    masks = prune.Masks()
    for epoch in range(3):
        masks.update(model, s, groups, epoch)
        target = prune.target_sparsity(s, s.groups[0], epoch)
        for name in ("0", "2"):
            weight = architectures.layers(model)[name].weight
            assert int((weight == 0).sum()) == int(target * weight.numel())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    masks.apply_(model)
    weight = architectures.layers(model)["2"].weight
    keep = kernels.unpack_bits(masks.bits["2"], weight.numel()).view(weight.shape)
    assert torch.equal(weight != 0, keep)
    assert prune.sparsity(model, ["2"]) == pytest.approx(1 - int(keep.sum()) / weight.numel())


def test_masks_are_monotone_across_stages():
    model = net()
    s = section(("2",), final=0.6, initial=0.6, end=1, frequency=1)
    masks = prune.Masks()
    masks.update(model, s, prune.layer_groups(model, s), 0)
    before = masks.bits["2"].clone()
    later = section(("2",), final=0.5, initial=0.1, end=1, frequency=1)
    masks.update(model, later, prune.layer_groups(model, later), 0)
    assert torch.equal(masks.bits["2"], before)


def test_pruning_leaves_plus_zero_and_no_nan():
    model = net()
    s = section(("2",), final=0.5, initial=0.5, end=1)
    masks = prune.Masks()
    masks.update(model, s, prune.layer_groups(model, s), 0)
    weight = architectures.layers(model)["2"].weight
    with torch.no_grad():
        weight[weight == 0] = -torch.inf
    masks.apply_(model)
    zeros = weight[weight == 0]
    assert len(zeros) == 32 and not torch.signbit(zeros).any()


def test_masks_of_another_network_are_refused():
    bits = kernels.pack_bits(torch.ones(64, dtype=torch.bool))
    with pytest.raises(UserError, match="no layer"):
        prune.Masks({"conv9": bits}).check(net())
    with pytest.raises(UserError, match="8 bytes for 216"):
        prune.Masks({"0": bits}).check(net())
