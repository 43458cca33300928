"""What networks are drawn from at random: layers, and heads that end in logits."""

import torch
import torch.nn.functional as F
from torch import nn


class Apply(nn.Module):
    """A function as a module, as the body of somebody's ``forward`` would use it."""

    def __init__(self, function, *inner):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(inner)

    def forward(self, x):
        return self.function(x, *self.inner)


def conv(channels, chance):
    groups = chance.choice([1, 1, 1, channels])
    return nn.Conv2d(
        channels,
        groups * chance.randint(1, 6),
        chance.choice([1, 2, 3, 3, 5]),
        stride=chance.choice([1, 1, 2, 9]),
        padding=chance.choice([0, 1, 2]),
        dilation=chance.choice([1, 1, 2]),
        groups=groups,
        bias=chance.random() < 0.5,
        padding_mode=chance.choice(["zeros", "zeros", "zeros", "circular", "reflect"]),
    )


def normalized(channels, chance):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
    )


def residual(channels, chance):
    inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
    in_place = chance.random() < 0.3
    return Apply(lambda x, f: f(x).add_(x) if in_place else F.relu(x + f(x)), inner)


def gate(channels, chance):
    return Apply(
        lambda x, f: x * torch.sigmoid(f(F.adaptive_avg_pool2d(x, 1))),
        nn.Conv2d(channels, channels, 1),
    )


def branches(channels, chance):
    pair = nn.Conv2d(channels, 2, 1), nn.Conv2d(channels, 3, 3, padding=1)
    return Apply(lambda x, a, b: torch.cat([a(x), b(x)], 1), *pair)


def keyword(channels, chance):
    return Apply(lambda x, f: f(input=x), nn.Conv2d(channels, 4, 3, padding=1))


def norm(channels, chance):
    kinds = [nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), nn.InstanceNorm2d(channels)]
    return chance.choice(kinds)


def activation(channels, chance):
    kinds = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.LeakyReLU, nn.PReLU]
    return chance.choice(kinds)()


def pool(channels, chance):
    kinds = [nn.MaxPool2d(2), nn.AvgPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(2)]
    return chance.choice(kinds)


def other(channels, chance):
    kinds = [
        nn.Dropout(0.2),
        nn.Identity(),
        nn.ConvTranspose2d(channels, 3, 2),
        nn.Upsample(scale_factor=2),
        Apply(lambda x: x.flip(1)),
        Apply(lambda x, f: F.relu(f(x), inplace=True), nn.Conv2d(channels, 3, 1)),
        Apply(lambda x: x - x.mean(dim=1, keepdim=True)),
    ]
    return chance.choice(kinds)


PARTS = (conv, conv, normalized, residual, gate, branches, keyword, norm, activation, pool, other)


def averaged(x, classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(x.shape[1], classes)]


def by_mean(x, classes):
    return [Apply(lambda x: x.mean((2, 3))), nn.Linear(x.shape[1], classes)]


def squeezed(x, classes):
    if x.shape[1] == 1:
        return averaged(x, classes)
    return [
        nn.AdaptiveAvgPool2d(1),
        Apply(lambda x: x.squeeze()),
        nn.Linear(x.shape[1], classes),
    ]


def viewed(x, classes):
    features = x[0].numel()
    return [Apply(lambda x: x.view(x.size(0), -1)), nn.Linear(features, classes)]


def linear(x, classes):
    features = x[0].numel()
    return [nn.Flatten(), nn.Linear(features, 9), nn.ReLU(), nn.Linear(9, classes)]


def convolved(x, classes):
    return [nn.Conv2d(x.shape[1], classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def log_probabilities(x, classes):
    return [*averaged(x, classes), nn.LogSoftmax(dim=1)]


HEADS = (averaged, by_mean, squeezed, viewed, linear, convolved, log_probabilities)
