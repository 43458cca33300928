"""Optimizers as torch has them; learning rates over the epochs, one that waits for a plateau."""

import pytest
import torch
from torch import nn

from micronet.compression.compression import Compression
from micronet.compression.plan import CompressionPlan
from micronet.recipe.schema import TrainSection
from micronet.training.optimizer import Plateau, learning_rate, make_optimizer
from micronet.utils.errors import UserError


def test_learning_rates():
    cosine = TrainSection(epochs=10, lr=1.0, warmup_epochs=2)
    assert learning_rate(cosine, 0) == pytest.approx(0.1)
    assert learning_rate(cosine, 2) == 1.0
    assert learning_rate(cosine, 6) == pytest.approx(0.5)
    assert learning_rate(cosine, 10) == pytest.approx(0.0, abs=1e-15)
    exponential = TrainSection(lr=1.0, lr_schedule="exponential", gamma=0.5, lr_start_epoch=2)
    rates = [learning_rate(exponential, e) for e in (0, 2, 2.9, 3, 4.5)]
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["cosine", "polynomial"])
def test_a_rate_does_not_rise_again_after_the_end(kind):
    section = TrainSection(epochs=4, lr=1.0, lr_min=0.01, lr_schedule=kind, power=1.5)
    for progress in (4, 5.5, 8):
        assert learning_rate(section, progress) == pytest.approx(0.01)


def test_rates_of_no_section_or_before_the_start_are_refused():
    with pytest.raises(UserError, match="it has no train section"):
        learning_rate(None, 0)
    for progress in (-1, float("nan")):
        with pytest.raises(UserError, match="begins at progress 0, not"):
            learning_rate(TrainSection(), progress)


def test_more_learning_rates():
    step = TrainSection(lr=1.0, lr_schedule="step", gamma=0.1, milestones=(2, 4))
    assert [learning_rate(step, e) for e in (0, 1.9, 2, 4)] == pytest.approx([1, 1, 0.1, 0.01])
    poly = TrainSection(epochs=10, lr=1.0, lr_schedule="polynomial", power=2.0, lr_min=0.2)
    assert [learning_rate(poly, e) for e in (0, 5, 10)] == pytest.approx([1.0, 0.4, 0.2])
    cosine = TrainSection(epochs=10, lr=1.0, lr_min=0.5)
    assert [learning_rate(cosine, e) for e in (0, 5, 10)] == pytest.approx([1.0, 0.75, 0.5])
    constant = TrainSection(lr=0.3, lr_schedule="constant", warmup_epochs=1)
    assert [learning_rate(constant, e) for e in (0, 1, 9)] == pytest.approx([0.03, 0.3, 0.3])


def test_plateau_waits_and_reduces():
    section = TrainSection(lr_schedule="plateau", patience=1, gamma=0.5)
    plateau, scales = Plateau(), []
    for top1 in (10, 20, 20, 15, 21, 20, 20, 20, 20):
        plateau.saw(section, top1)
        scales.append(plateau.scale)
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    cosine = Plateau()
    for _ in range(99):
        cosine.saw(TrainSection(patience=0), 1.0)
    assert cosine.scale == 1.0


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_optimizers_take_the_steps_of_torchs_own(name):
    own, kind = {
        "sgd": ({"nesterov": True}, torch.optim.SGD),
        "rmsprop": ({"momentum": 0.9, "alpha": 0.9}, torch.optim.RMSprop),
        "adam": ({"betas": (0.8, 0.99)}, torch.optim.Adam),
        "adamw": ({"betas": (0.8, 0.99)}, torch.optim.AdamW),
    }[name]
    own["momentum" if name == "sgd" else "eps"] = 0.5
    section = TrainSection(optimizer=name, lr=0.1, weight_decay=0.01, **own)
    networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    compressions = [Compression(n, CompressionPlan(), section) for n in networks]
    ours = make_optimizer(compressions[0], section)
    theirs = kind(compressions[1].parameter_groups(), lr=0.1, **own)
    seen = []
    for optimizer in (ours, theirs):
        optimizer.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    for step in range(6):
        if step == 3:  # Each goes on with the other's state.
            states = ours.state_dict(), theirs.state_dict()
            theirs.load_state_dict(states[0])
            ours.load_state_dict(states[1])
        images = torch.randn(2, 3, 5, 5)
        for network, optimizer in zip(networks, (ours, theirs), strict=True):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    assert isinstance(ours, kind) and seen == [True] * 12
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other) and one.requires_grad
