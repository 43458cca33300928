"""The trial of a network before a run: nothing is left of it."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from micronet.models.unchanged import unchanged
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.runs import checkpoint
from micronet.train import main
from micronet.training import network_trial
from micronet.training.network_trial import Trial
from trial_networks import QUANTIZE, SMALL, half, written


class Restless(nn.Module):
    """Changes all that a forward pass can: buffers, attributes, containers, random states."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("cache", None)
        self.calls, self.seen = 0, [1]

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        self.count = self.count + 1
        self.cache = x.sum()
        self.new = random.random() + np.random.rand()
        return self.fc(self.body(x).mean((2, 3)) + torch.rand(4))


def test_a_trial_leaves_no_trace():
    model = Restless()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [parameter.grad for parameter in model.parameters()]
    modules, attributes = list(model.modules()), set(vars(model))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    bits = {name: LayerBits(4, 4) for name in ("body.0", "fc")}
    trial = Trial("net", (3, 8, 8), 5, (1, 2), (2,), bits=bits)
    assert network_trial.check(model, trial, channels_last=True)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert set(vars(model)) == attributes and (model.calls, model.seen) == (0, [1])
    assert model.cache is None and model.training
    assert not model._forward_pre_hooks and not model._forward_hooks
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key]), key
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all((g == 1).all() for g in gradients)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2][1])


@pytest.mark.parametrize("step", ["range", "learned"])
def test_a_quantized_network_is_left_as_it_was(step):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    bits = LayerBits(4, 4, weight_step=step, activation_step=step)
    quantize.convert_(model, {"0": bits, "3": bits})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trial = Trial("net", (3, 8, 8), 5, (2,), (2,), bits={"0": bits, "3": bits})
    assert network_trial.check(model, trial, channels_last=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num()), key
    assert quantize.uninitialized(model) == ["0.input_quantizer", "3.input_quantizer"]


def test_a_network_is_put_back_after_an_error_too():
    model = Restless()
    with pytest.raises(KeyError), unchanged(model):
        model(torch.rand(2, 3, 8, 8))
        model.body = nn.Identity()
        raise KeyError
    assert len(model.body) == 3 and model.calls == 0 and model.count == 0


@pytest.mark.slow
def test_training_is_the_same_with_and_without_a_trial(tmp_path, monkeypatch):
    recipe = (
        half("re:.*conv.*") | QUANTIZE | {"train": {"epochs": 1, "batch_size": 500, "lr": 0.01}}
    )
    start = ["fit", "--arch", "efficientnet-micro", *SMALL, "--out", str(tmp_path / "fit")]
    assert main(start) == 0
    qat = ["qat", "--from", str(tmp_path / "fit"), "--schedule", written(tmp_path, recipe), *SMALL]
    assert main([*qat, "--out", str(tmp_path / "a")]) == 0
    monkeypatch.setattr(network_trial, "_try_evaluation", lambda *_: None)
    monkeypatch.setattr(network_trial, "_try_quantized", lambda *_: None)
    monkeypatch.setattr(
        network_trial, "_try_training", lambda model, *_: {*map(id, model.parameters())}
    )
    assert main([*qat, "--out", str(tmp_path / "b")]) == 0
    a, b = (checkpoint.load(tmp_path / f"{run}/last.safetensors").tensors for run in "ab")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
