"""Small networks of convolutions, normalizations and activations, and their conversion."""

import torch
import torch.nn.functional as F
from torch import nn

from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedConv2d
from micronet.quantization.quantize import LayerBits


def images(rng, size, dtype=torch.float32, scale=1.0):
    x = scale * torch.randn(size, generator=rng)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


class Gated(nn.Module):
    """An inverted bottleneck with squeeze-excite and a residual."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(16, 32, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.reduce, self.widen = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project = nn.Conv2d(32, 16, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)

    def forward(self, x):
        h = F.silu(self.norm(self.expand(x)))
        s = F.adaptive_avg_pool2d(h, 1)
        s = self.widen(F.silu(self.reduce(s)))
        return self.norm2(self.project(torch.sigmoid(s) * h)) + x


class Shared(nn.Module):
    """One activation that two convolutions of codes and an addition read."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        h = F.relu(self.norm(self.first(x)))
        return self.one(h) + self.two(h) + h


def chain():
    return nn.Sequential(
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.SiLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 16, 1),
    )


def converted(make, x, margin=4.0):
    """A network quantized to 4/4 bits; its frozen ranges are those of x times a margin."""
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Unlike a fresh one, which puts each channel's mean, often an integer, on ReLU's kink.
            nn.init.normal_(module.bias)
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), LayerBits(4, 4)))
    with torch.no_grad():
        model(x)
    for module in model.modules():
        if isinstance(module, QuantizedConv2d):
            module.input_quantizer.range.mul_(margin)
            module.input_quantizer.eval()
    return model
