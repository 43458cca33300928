"""Gradients of blocks on codes against those of the same network in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet_kernels as kernels
from block_networks import Gated, Shared, chain, converted, images
from micronet.quantization.layers import QuantizedConv2d, QuantizedLayer


def straight_through(x, values, passes):
    """The values, with the gradient of x where it passes."""
    return values + torch.where(passes, x - x.detach(), torch.zeros((), dtype=x.dtype))


class Replayed(nn.Module):
    """A quantized convolution in plain PyTorch that rounds its input to the codes of another.

    Which code an element close to a tie gets depends on the last bit of what came before; here
    that is settled, so that gradients differ by the arithmetic of the backward pass alone.
    """

    def __init__(self, layer, codes):
        super().__init__()
        self.weight, self.bias, self.layer, self.codes = layer.weight, layer.bias, layer, codes
        w = layer.weight.detach().float()
        integers, scale, zero = kernels.quantize_per_channel(w, layer.weight_levels)
        self.integers = integers + zero.view(-1, 1, 1, 1)
        self.scale = scale.view(-1, 1, 1, 1)

    def forward(self, x):
        with torch.no_grad():
            values, passes = self.input_values(x)
            w = self.integers.to(x.dtype) / self.scale.to(x.dtype)
        x = straight_through(x, values, passes)
        w = straight_through(self.weight, w, torch.tensor(True))
        layer = self.layer
        return F.conv2d(x, w, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def input_values(self, x):
        n, c, h, w = self.codes.size
        levels = self.layer.activation_levels
        codes = kernels.unpack_codes(self.codes.codes, n * c * h * w, levels)
        codes = codes.view(n, h, w, c).permute(0, 3, 1, 2)
        range = self.codes.coding.range
        low, high = range.clamp(max=0.0)[0], range.clamp(min=0.0)[1]
        scale = (levels - 1) / (high - low)
        integers = codes.to(x.dtype) + torch.round(scale * low)
        # An element at an end of the range is inside, and rounds to the code of that end.
        passes = (x >= low * (1 + 1e-6)) & (x <= high * (1 + 1e-6))
        return integers / scale.to(x.dtype), passes


def replay(model, recorded, dtype):
    """A copy of a quantized network of plain layers of a dtype that replays recorded codes."""
    twin = copy.deepcopy(model).to(dtype)
    for name, codes in recorded.items():
        twin.set_submodule(name, Replayed(twin.get_submodule(name), codes))
    return twin


def record(model, monkeypatch):
    """The codes that each layer reads in the next passes, by the layer's name."""
    names = {layer: name for name, layer in model.named_modules()}
    recorded, quantize = {}, QuantizedLayer._codes

    def keep(layer, x):
        recorded[names[layer]] = quantize(layer, x)
        return recorded[names[layer]]

    monkeypatch.setattr(QuantizedLayer, "_codes", keep)
    return recorded


def gradients(model, x, out):
    given = x.clone().requires_grad_()
    y = model(given) + 0
    y.backward(out.to(y.dtype))
    own = {"x": given.grad} | {name: p.grad for name, p in model.named_parameters()}
    buffers = {name: b for name, b in model.named_buffers() if "running" in name}
    return {"y": y.detach()} | own | buffers


def has_doubtful_slopes(model, x):
    """Whether float32 may take an element of a float64 network for one beyond a kink."""
    doubts = []

    def near(values, kink):
        doubts.append(((values - kink).abs() < 1e-5).any())

    hooks = []
    for module in model.modules():
        if isinstance(module, Replayed):
            low, high = module.codes.coding.range.tolist()
            ends = [end for end in (low, high) if end != 0]
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, inputs, ends=ends: [near(inputs[0], end) for end in ends] and None
                )
            )
    relu = F.relu
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "relu", lambda x, inplace=False: (near(x, 0.0), relu(x))[1])
        model(x)
    for hook in hooks:
        hook.remove()
    assert doubts
    return any(doubts)


def twins(make, margin, rng, monkeypatch):
    """A network and its images; copies in float64 and in plain float32 that replay its codes."""
    while True:
        x = images(rng, (3, 16, 9, 8))
        model = converted(make, x, margin)
        probe, kept = copy.deepcopy(model), copy.deepcopy(model)
        with monkeypatch.context() as patch:
            recorded = record(probe, patch)
            probe(x)
        assert len(recorded) == sum(isinstance(m, QuantizedConv2d) for m in model.modules())
        if not has_doubtful_slopes(replay(kept, recorded, torch.float64), x.double()):
            exact, plain = (replay(kept, recorded, t) for t in (torch.float64, torch.float32))
            return x, model, exact, plain


@pytest.mark.parametrize("margin", [4.0, 0.7], ids=["within ranges", "beyond ranges"])
@pytest.mark.parametrize("make", [Gated, Shared, chain], ids=["gated", "shared", "chain"])
def test_gradients_err_at_most_twice_as_much_as_plain_float32(
    backend, rng, monkeypatch, make, margin
):
    ours, theirs = [], []
    for _ in range(4):  # A single draw may be a lucky one for plain float32.
        x, model, exact, plain = twins(make, margin, rng, monkeypatch)
        out = images(rng, (3, 16, 9, 8))
        truth = gradients(exact, x.double(), out)
        for errors, network in ((ours, model), (theirs, plain)):
            found = gradients(network, x, out)
            errors += [float((found[name] - v).norm() / v.norm()) for name, v in truth.items()]
    assert math.hypot(*ours) <= 2 * math.hypot(*theirs)
    assert max(theirs) < 1e-4
