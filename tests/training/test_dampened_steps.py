"""A step adds the dampening loss to that of its batch, once however many parts the batch has."""

import pytest
import torch

from guarded_steps import batch, stepper
from micronet.compression.oscillations.following import Oscillations
from micronet.compression.oscillations.weight_grid import beyond_levels
from micronet.quantization.layers import quantized_layers
from micronet.training.plan import StepLocation
from micronet.training.steps.step import backward


def gradients(taker):
    """Of the weights that are quantized, by layer, and what the step gave."""
    where = StepLocation("qat", 0, 0, "")
    outcome = backward(taker.state, taker.wrapped, taker.plan, batch(), taker.teacher, where)
    layers = dict(quantized_layers(taker.state.model))
    return {name: layer.weight.grad for name, layer in layers.items()}, outcome


def test_the_gradient_is_that_of_both_losses(monkeypatch):
    dampened, with_loss = gradients(stepper(deferred=False, accumulate=1))
    monkeypatch.setattr(Oscillations, "dampens", False)
    taker = stepper(deferred=False, accumulate=1)
    plain, without = gradients(taker)
    for name, layer in quantized_layers(taker.state.model):
        # Twice the loss's weight, which is 0.01.
        pulls = 2 * (torch.tensor(0.01) * beyond_levels(layer).detach())
        assert torch.equal(dampened[name], plain[name] + pulls), name
        assert pulls.any()
    # What is logged, and held to the limit, is the loss of the batch.
    assert torch.equal(with_loss.losses, without.losses)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_loss_is_asked_for_once(parts, monkeypatch):
    asked, real = [], Oscillations.loss

    def loss(self):
        asked.append(0)
        return real(self)

    monkeypatch.setattr(Oscillations, "loss", loss)
    gradients(stepper(deferred=False, accumulate=parts))
    assert len(asked) == 1
