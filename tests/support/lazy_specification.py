"""Quantized layers in plain PyTorch, from the definition of the numbers, for tests to compare with.

In float64 the few rounded values of a layer are exact, and all else errs far less than float32, so
that what differs from it by more than float32's rounding is a fault. Where a value lies so close to
a kink, the middle between two codes or an end of a range, that float32 may take the other side, a
`Doubts` says so and the draw is not compared.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

# Float32 values of a few units err by some 1e-6 after normalization.
NEAR = 3e-5


class Doubts:
    """Whether float32 might fall on another side of a kink than float64, and how errors grow.

    Attributes:
        found: whether a value lay too close to a kink.
        magnified: the largest factor by which a normalization multiplies what it is given.
    """

    def __init__(self):
        self.found, self.magnified = False, 1.0

    def near(self, distance):
        """Note distances to a kink; exactly on it is no doubt, since zeros are exact."""
        distance = distance.detach().abs()
        self.found |= bool(((distance < NEAR) & (distance > 0)).any())


class SigmoidOfInput(torch.autograd.Function):
    """The sigmoid whose gradient comes from its input, where torch's own keeps its output."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return torch.sigmoid(input)

    @staticmethod
    def backward(ctx, grad):
        y = torch.sigmoid(*ctx.saved_tensors)
        return grad * y * (1 - y)


class KinksOfFunctions(TorchFunctionMode):
    """Watches the functions of torch that have a kink at zero."""

    KINKED = ("relu", "relu_", "clamp", "clamp_", "clamp_min_", "abs", "hardtanh", "hardtanh_")

    def __init__(self, doubts, sigmoid=torch.sigmoid):
        super().__init__()
        self.doubts, self.sigmoid = doubts, sigmoid

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.KINKED:
            self.doubts.near(args[0] if args else kwargs["input"])
        if func is F.batch_norm:
            self.magnifies(*args, **(kwargs or {}))
        if func is torch.sigmoid:
            return self.sigmoid(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def magnifies(
        self, x, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ):
        """Note by how much: a channel of equal values by 316 at the usual eps."""
        found = x.detach().var((0, 2, 3), unbiased=False) if training else variance
        largest = 1.0 if weight is None else float(weight.detach().abs().max())
        factor = largest * float(found.min() + eps) ** -0.5
        self.doubts.magnified = max(self.doubts.magnified, factor)


def straight_through(x, values, passes):
    """The values, with the gradient of x where it passes."""
    return values + torch.where(passes, x - x.detach(), torch.zeros((), dtype=x.dtype))


class SpecifiedConv2d(nn.Module):
    """A convolution over weights and inputs of few levels, either of which may stay in float."""

    def __init__(self, source, levels, weight_levels, range, moves, doubts):
        super().__init__()
        self.source, self.levels, self.weight_levels = source, levels, weight_levels
        self.weight, self.bias = source.weight, source.bias
        self.moves, self.doubts = moves, doubts
        self.register_buffer("range", range.double())
        # An average that has seen four batches of that range.
        self.register_buffer("ema", range.double() * (1 - DECAY**4))

    def forward(self, x):
        if self.levels is not None:
            x = self.rounded_input(x)
        layer, weight = self.source, self.rounded_weight()
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = layer.padding if layer.padding_mode == "zeros" else 0
        return F.conv2d(x, weight, self.bias, layer.stride, padding, layer.dilation, layer.groups)

    def rounded_input(self, x):
        with torch.no_grad():
            if self.moves and self.training:
                extremes = torch.stack(torch.aminmax(x)).double()
                self.ema.copy_(DECAY * self.ema + (1 - DECAY) * extremes)
                self.range.copy_(self.ema / (1 - DECAY**5))
            low, high = self.range[0].clamp(max=0.0), self.range[1].clamp(min=0.0)
            values = self.rounded(x, low, high, self.levels)
            for end in (low, high):
                self.doubts.near(x - end)
            passes = (x >= low) & (x <= high)
        return straight_through(x, values, passes)

    def rounded_weight(self):
        if self.weight_levels is None:
            return self.weight
        # A weight's range is that of its own values: their order, not their rounding, decides.
        with torch.no_grad():
            rows = self.weight.flatten(1)
            low = rows.amin(1).clamp(max=0.0).view(-1, 1, 1, 1)
            high = rows.amax(1).clamp(min=0.0).view(-1, 1, 1, 1)
            values = self.rounded(self.weight, low, high, self.weight_levels)
        return straight_through(self.weight, values, torch.tensor(True))

    def rounded(self, x, low, high, levels):
        n = levels - 1
        scale = n / (high - low)
        zero = torch.round(scale * low)
        self.doubts.near((scale * low - torch.floor(scale * low) - 0.5) / n)
        place = scale * x - zero
        self.doubts.near((place - torch.floor(place) - 0.5) / scale)
        return (torch.round(place).clamp(0, n) + zero) / scale


DECAY = 0.99
