"""Networks whose means, swishes and sigmoids are of values that no layer of ours has just made."""

import torch
import torch.nn.functional as F
from torch import nn

from packed_networks import FOUR, compressed

SHAPE = (3, 17, 11)


class Squeeze(nn.Module):
    """As timm's squeeze-and-excite: means of whatever comes, and a hard gate."""

    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(F.relu(self.reduce(means))))


class Means(nn.Module):
    """Each spelling of a mean, a swish and a sigmoid, between layers of codes and a float head."""

    def __init__(self, channels=12, classes=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.squeeze = Squeeze(channels)
        self.mix, self.again = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.swish = nn.SiLU(inplace=True)
        self.head = nn.Linear(3 * channels, classes)

    def forward(self, x):
        x = self.squeeze(F.hardswish(self.norm(self.stem(x))))
        mixed = self.swish(self.mix(x) + x)
        gated = self.again(mixed) * torch.sigmoid(F.adaptive_avg_pool2d(mixed, 1))
        one, two = torch.mean(gated, dim=[-1, -2]), mixed.mean(axis=(3, 2))
        return self.head(torch.cat([one.sigmoid(), F.silu(two), (mixed + x).mean((2, 3))], 1))


class Body(nn.Module):
    """A network of one layer that does something with what follows it, or with its input."""

    def __init__(self, do):
        super().__init__()
        self.conv, self.do = nn.Conv2d(3, 6, 1), do

    def forward(self, x):
        return self.do(self.conv(x), x)


def quantized(do):
    model = compressed(Body(lambda y, _: y), SHAPE, {"conv": FOUR}, sparsity=0)
    model.do = do
    return model


def means_network(rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    return compressed(Means(), SHAPE, {name: FOUR for name in ("stem", "mix", "again")})


def images_of(rng, count=4):
    return torch.randn(count, *SHAPE, generator=rng)


def in_lanes(x):
    """The mean over positions as the page says, in float32."""
    terms = F.pad(x.flatten(2), [0, -x.shape[2:].numel() % 16]).unflatten(2, (-1, 16)).unbind(2)
    lanes = torch.zeros_like(terms[0])
    for term in terms:
        lanes = lanes + term
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes / x.shape[2:].numel()
