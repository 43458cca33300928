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


def rounded(x, scale, zero, least, most, doubts):
    """The values of x at a scale, and its integers, clamped to where the codes end."""
    place = scale * x - zero
    doubts.near((place - torch.floor(place) - 0.5) / scale)
    whole = torch.round(place).clamp(least, most) + zero
    return whole / scale, whole


class RangeOfInput(nn.Module):
    """Rounds an input to its range, which moves or is frozen."""

    def __init__(self, levels, range, moves, doubts):
        super().__init__()
        self.levels, self.moves, self.doubts = levels, moves, doubts
        self.register_buffer("range", range.double())
        # An average that has seen four batches of that range.
        self.register_buffer("ema", range.double() * (1 - DECAY**4))

    def forward(self, x):
        with torch.no_grad():
            if self.moves and self.training:
                extremes = torch.stack(torch.aminmax(x)).double()
                self.ema.copy_(DECAY * self.ema + (1 - DECAY) * extremes)
                self.range.copy_(self.ema / (1 - DECAY**5))
            low, high = self.range[0].clamp(max=0.0), self.range[1].clamp(min=0.0)
            n = self.levels - 1
            scale = n / (high - low)
            zero = torch.round(scale * low)
            self.doubts.near((scale * low - torch.floor(scale * low) - 0.5) / n)
            values, _ = rounded(x, scale, zero, 0, n, self.doubts)
            for end in (low, high):
                self.doubts.near(x - end)
            passes = (x >= low) & (x <= high)
        return straight_through(x, values, passes)


class StepOfInput(nn.Module):
    """Rounds an input to multiples of a learned step, whose zero point may follow an offset."""

    def __init__(self, levels, step, zero, offset, doubts):
        super().__init__()
        self.levels, self.zero, self.doubts = levels, zero, doubts
        self.step_size = nn.Parameter(step.double())
        self.register_parameter("offset", None if offset is None else nn.Parameter(offset.double()))

    def forward(self, x):
        scale = 1 / self.step_size
        largest = max(self.levels - 1 + int(self.zero), 1)
        moved, zero = 0.0, self.zero
        if self.offset is not None:
            place = self.offset.detach() * scale.detach()
            self.doubts.near(place - torch.floor(place) - 0.5)
            zero = torch.round(place).clamp(1 - self.levels, 0)
            # That of an input that was never negative stays.
            moved = (self.offset - self.offset.detach()) * float(self.zero < 0)
        features = x.shape[1:].numel()
        return learned(x, self.step_size, zero, self.levels, moved, features * largest, self.doubts)


def learned(x, step, zero, levels, moved, share, doubts):
    """x at a learned step, with the gradients to it and to what moves the zero point."""
    with torch.no_grad():
        scale, n = 1 / step, levels - 1
        values, whole = rounded(x, scale, zero, 0, n, doubts)
        t = scale * x
        for end in (zero, zero + n):
            doubts.near((t - end) / scale)
        inside = (t > zero) & (t < zero + n)
        factors = torch.where(inside, whole - t, whole) * share**-0.5
        beyond = torch.where(inside, 0.0, 1.0).to(x.dtype) * share**-0.5
    steps = (step - step.detach()) * factors
    return straight_through(x, values, inside) + steps + moved * beyond


class SpecifiedConv2d(nn.Module):
    """A convolution over weights and inputs of few levels, either of which may stay in float.

    The input's quantizer is a module; weights have learned steps, or a range, symmetric or not.
    """

    def __init__(self, source, input_quantizer, weight_levels, weight_step, symmetric, doubts):
        super().__init__()
        self.source, self.weight_levels, self.symmetric = source, weight_levels, symmetric
        self.weight, self.bias, self.doubts = source.weight, source.bias, doubts
        self.input_quantizer = input_quantizer
        self.register_parameter(
            "weight_step", None if weight_step is None else nn.Parameter(weight_step.double())
        )

    def forward(self, x):
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        layer, weight = self.source, self.rounded_weight()
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = layer.padding if layer.padding_mode == "zeros" else 0
        return F.conv2d(x, weight, self.bias, layer.stride, padding, layer.dilation, layer.groups)

    def rounded_weight(self):
        levels, weight = self.weight_levels, self.weight
        if levels is None:
            return weight
        if self.weight_step is not None:
            step = self.weight_step.view(-1, 1, 1, 1)
            zero = torch.tensor(-float(levels // 2), dtype=weight.dtype)
            share = weight[0].numel() * (levels - 1 - levels // 2)
            return learned(weight, step, zero, levels, 0.0, share, self.doubts)
        # A weight's range is that of its own values: their order, not their rounding, decides.
        with torch.no_grad():
            rows = weight.flatten(1)
            low = rows.amin(1).clamp(max=0.0).view(-1, 1, 1, 1)
            high = rows.amax(1).clamp(min=0.0).view(-1, 1, 1, 1)
            if self.symmetric:
                n = (levels - 1) // 2
                scale = n / torch.maximum(-low, high)
                values, _ = rounded(weight, scale, torch.zeros_like(scale), -n, n, self.doubts)
            else:
                n = levels - 1
                scale = n / (high - low)
                self.doubts.near((scale * low - torch.floor(scale * low) - 0.5) / n)
                zero = torch.round(scale * low)
                values, _ = rounded(weight, scale, zero, 0, n, self.doubts)
        return straight_through(weight, values, torch.tensor(True))


DECAY = 0.99
