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


def test_what_is_refused_sets_no_range(model):
    micronet.quantize_(model)
    images = torch.randn(2, 3, 5, 5)
    model[1].running_var.fill_(0).add_(torch.nan)
    with pytest.raises(UserError, match="the input of layer '4' held a value that is not finite"):
        micronet.calibrate_(model, [images])
    assert not model[0].input_quantizer.is_ready()
    with pytest.raises(UserError, match="Sequential cannot be calibrated: in module '0'"):
        micronet.calibrate_(model, [images[:, :2]])
    with pytest.raises(UserError, match="method 3 is none of calibrate_: minmax or mse"):
        micronet.calibrate_(model, [images], method=3)


def test_empty_inputs_have_no_range(model):
    micronet.quantize_(model)
    images = torch.randn(2, 3, 5, 5)
    micronet.calibrate_(model, [images[:0], images, images[:0]])
    assert model[0].input_quantizer.ends() == (float(images.min()), float(images.max()))
    assert int(model[0].input_quantizer.step) == 1


def test_a_forward_pass_that_a_layer_was_given_comes_back(model):
    micronet.quantize_(model)
    layer, calls = model[0], []
    own = layer.forward

    def counted(input):
        calls.append(1)
        return own(input)

    layer.forward = counted
    images = torch.randn(2, 3, 5, 5)
    micronet.calibrate_(model, [images])
    model(images)
    assert layer.forward is counted and calls == [1]


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_ranges_are_those_of_plain_arithmetic(model, method):
    """A layer that two batches reach, its rounding written out in double precision."""
    layer = nn.Sequential(nn.Linear(6, 3))
    micronet.quantize_(layer, weights=8, activations=3)
    batches = [torch.randn(50, 6) + 0.5, torch.randn(50, 6)]
    micronet.calibrate_(layer, batches, method=method)
    x = torch.cat(batches).double()
    low, high = layer[0].input_quantizer.ends()

    def error(low, high):
        scale = 7 / (high - low)
        zero = round(scale * low)
        rounded = ((scale * x - zero).round().clamp(0, 7) + zero) / scale
        return float((rounded - x).square().sum())

    ends = float(x.min()), float(x.max())
    if method == "minmax":
        assert (low, high) == ends
    else:
        assert error(low, high) < 0.9 * error(*ends)
        assert all(error(low, high * by) > 0.98 * error(low, high) for by in (0.9, 0.95, 1.05, 1.1))


def test_one_tensor_is_no_batches():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    micronet.quantize_(model)
    with pytest.raises(UserError, match=r"takes batches, as in \[images\]"):
        micronet.calibrate_(model, torch.randn(2, 3, 8, 8))
