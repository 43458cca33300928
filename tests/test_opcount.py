"""The walk: every operation of a network, with its shape, in execution order."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from micronet import models, opcount
from micronet.opcount import Activation, BatchNorm, Conv, Dropout, Linear, Pool, Residual, Scale


def on_meta(arch, classes=10):
    with torch.device("meta"):
        return models.create_model(arch, classes)


class Block(nn.Module):
    """A depthwise convolution with squeeze-excite and a skip, in plain functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.BatchNorm2d(6)
        self.squeeze = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.squeeze(nn.functional.adaptive_avg_pool2d(y, 1)))
        return x + y * gate


def test_every_kind_with_its_shape():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        Block(),
        nn.Dropout(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).to("meta")
    maps, pixels = 6 * 8 * 8, 64
    assert opcount.walk(net, 16) == [
        Conv("0", 3, 6, 1, (3, 3), pixels, False),
        Conv("1.conv", 6, 6, 6, (3, 3), pixels, True),
        BatchNorm("1.norm", maps),
        Activation("1", "relu", maps),
        Pool("1", maps, 6),
        Conv("1.squeeze", 6, 6, 1, (1, 1), 1, True),
        Activation("1", "sigmoid", 6),
        Scale("1", maps),
        Residual("1", maps),
        Dropout("2", maps),
        Pool("3", maps, 6 * 16),
        Linear("5", 96, 5, 1, True),
    ]


@pytest.mark.parametrize(
    "arch,size",
    [
        ("efficientnet-b0", 224),
        ("efficientnet-b1", 224),
        ("efficientnet-micro", 32),
        ("resnet20", 32),
        ("resnet18", 64),
        ("mobilenet_v2", 64),
        ("mobilenet_v3_small", 64),
    ],
)
def test_dense_products_agree_with_torch(arch, size):
    """torch counts two operations a product, and neither biases nor element-wise work."""
    model = on_meta(arch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    layers = [op for op in opcount.walk(model, size) if isinstance(op, Conv | Linear)]
    assert 2 * sum(op.weights * op.positions for op in layers) == counter.get_total_flops()
    assert [op.name for op in layers] == list(models.layers(model))
    sizes = {name: layer.weight.numel() for name, layer in models.layers(model).items()}
    assert {op.name: op.weights for op in layers} == sizes


def test_efficientnet_b1_has_every_part():
    """23 blocks: 2 without expansion, 16 with a skip; 5 convolutions each, stem and head."""
    found = Counter(type(op) for op in opcount.walk(on_meta("efficientnet-b1", 1000), 224))
    assert found[Conv] == 23 * 5 - 2 + 2
    assert found[BatchNorm] == 23 * 3 - 2 + 2
    assert found[Scale] == 23 and found[Residual] == 16
    assert found[Pool] == 24 and found[Linear] == found[Dropout] == 1
    # swish after stem, head, expand, depthwise and squeeze; one sigmoid a block
    assert found[Activation] == 2 + (23 - 2) + 23 + 23 + 23


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.weight = nn.Parameter(torch.zeros(4, 3, 1, 1))

    def forward(self, x):
        return nn.functional.conv2d(self.conv(x), self.weight)


@pytest.mark.parametrize(
    "unknown,word",
    [(nn.PReLU(), "PReLU"), (nn.GroupNorm(3, 3), "GroupNorm"), (Hidden(), "conv2d")],
)
def test_what_no_rule_counts_is_an_error_that_names_it(unknown, word):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), unknown).to("meta")
    with pytest.raises(ValueError, match=f"'1'.*{word}"):
        opcount.walk(net, 8)
    assert not net[0]._forward_hooks and not net[0]._forward_pre_hooks
