"""Calls of quantized layers that bring no new batch: made again in the backward pass, or empty."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import micronet


def network(step):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    weights, inputs = micronet.WeightPrecision(3, step=step), micronet.ActivationPrecision(3)
    if step == "learned":
        inputs = micronet.ActivationPrecision(3, step=step)
    micronet.quantize_(model, weights, inputs)
    micronet.calibrate_(model, [torch.randn(2, 3, 6, 6)])
    return model.train()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("step", ["range", "learned"])
def test_a_checkpointed_network_has_the_gradients_of_any_other(step, reentrant):
    model, again = network(step), network(step)
    for scale in (1.0, 3.0):
        images = (scale * torch.randn(2, 3, 6, 6)).requires_grad_()
        plain, checkpointed = model(images), checkpoint(again, images, use_reentrant=reentrant)
        plain.square().sum().backward()
        checkpointed.square().sum().backward()
        assert torch.equal(plain, checkpointed)
        for first, second in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(first.grad, second.grad)
        for first, second in zip(model.buffers(), again.buffers(), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_moves_nothing(step, training):
    model = network(step).train(training)
    before = copy.deepcopy(model.state_dict())
    assert model(torch.randn(0, 3, 6, 6)).shape == (0, 16)
    model(torch.randn(0, 3, 6, 6)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_first_batch_may_be_empty():
    layer = nn.Sequential(nn.Linear(4, 2))
    learned = micronet.ActivationPrecision(4, step="learned")
    micronet.quantize_(layer, 4, learned)
    assert layer(torch.randn(0, 4)).shape == (0, 2)
    assert not layer[0].input_quantizer.is_ready()
    assert bool(layer(torch.randn(3, 4)).isfinite().all())
