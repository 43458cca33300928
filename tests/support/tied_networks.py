"""Networks with a convolution of two names, or with two that hold one weight."""

from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.recipe.schema import (
    ActivationPrecision,
    PruneGroup,
    PruneSection,
    QuantizeSection,
    WeightPrecision,
)

BITS = LayerBits(4, 4)
# A module of a user's own.
SOURCE = '''
import torch.nn.functional as F
from torch import nn


def conv(*channels, **options):
    return nn.Conv2d(*channels, 3, padding=1, **options)


class Shared(nn.Module):
    """One convolution with a bias under two names, each with its own normalization."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = conv(3, 8, stride=2)
        twice = conv(8, 8)
        self.convs = nn.ModuleList([twice, twice])
        self.bns = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for one, bn in zip(self.convs, self.bns):
            x = F.relu(bn(one(x)))
        return self.fc(x.mean((2, 3)))


class Tied(Shared):
    """Two convolutions that hold one weight, and biases of their own."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.convs = nn.ModuleList([conv(8, 8), conv(8, 8)])
        self.convs[1].weight = self.convs[0].weight


class Alias(Shared):
    """The second name is an attribute of the network."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.convs = nn.ModuleList([conv(8, 8)])
        self.again = self.convs[0]

    def forward(self, x):
        x = F.relu(self.bns[0](self.convs[0](F.relu(self.stem(x)))))
        return self.fc(F.relu(self.bns[1](self.again(x))).mean((2, 3)))


class Listed(Shared):
    """The second name is in a list that no module registers."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.convs = nn.ModuleList([conv(8, 8)])
        self.order = [self.convs[0], *self.convs]

    def forward(self, x):
        x = F.relu(self.stem(x))
        for one, bn in zip(self.order, self.bns):
            x = F.relu(bn(one(x)))
        return self.fc(x.mean((2, 3)))


def sequential(num_classes):
    twice = conv(8, 8)
    return nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), twice, nn.ReLU(), twice,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def block(num_classes):
    twice = nn.Sequential(conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), twice, twice,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
'''


def section(*overrides, **precision):
    return QuantizeSection(
        WeightPrecision(4, **precision), ActivationPrecision(4, **precision), overrides
    )


def pruning(*names, **group):
    group = {"final_sparsity": 0.5} | group
    return PruneSection((PruneGroup(names, **group),), method="one-shot")


def convert(model, **precision):
    quantize.convert_(model, quantize.plan(model, section(**precision)))
    return model
