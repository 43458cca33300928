"""Loads files of weights, and holds networks and refusals to what they should be."""

import pytest
import torch
from torch import nn

from micronet.models import architectures
from micronet.utils.errors import UserError


def loaded(path, network="resnet20"):
    model = architectures.create_model(network, 10) if isinstance(network, str) else network
    architectures.load_weights(model, path)
    return model.eval()


def assert_same(model, expected):
    state = model.state_dict()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def assert_refused(path, *parts, network=None):
    with pytest.raises(UserError) as caught:
        loaded(path, network or "resnet20")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for part in parts:
        assert part in message, (part, message)


def starting(start, state):
    return {start + name: value for name, value in state.items()}


def small():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 8, 2),
        nn.ConvTranspose2d(8, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    ).eval()
