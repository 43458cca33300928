"""Ranges from some batches: what is set, and what is left as it was."""

import pytest
import torch
from torch import nn

import micronet
from micronet.utils.errors import UserError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2)
    )


def modes(model):
    return [module.training for module in model.modules()]


def test_the_mode_of_each_module_and_all_statistics_stay(model):
    micronet.quantize_(model)
    model.train()
    model[1].eval()
    before, kept = modes(model), model[1].running_mean.clone()
    micronet.calibrate_(model, [torch.randn(2, 3, 5, 5)])
    assert modes(model) == before and torch.equal(model[1].running_mean, kept)
    with pytest.raises(UserError, match="not finite"):
        micronet.calibrate_(model, [torch.full((2, 3, 5, 5), torch.nan)])
    assert modes(model) == before and not any("forward" in vars(m) for m in model.modules())


def test_holding_a_network_to_its_layers_keeps_modes_too(model):
    recipe = micronet.Recipe.from_dict({"quantize": {"weights": {"bits": 4}, "activations": None}})
    model.train()
    model[1].eval()
    before = modes(model)
    micronet.compress(model, recipe, example_inputs=(torch.randn(2, 3, 5, 5),))
    assert modes(model) == before
