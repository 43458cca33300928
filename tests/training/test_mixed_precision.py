"""Blocks on codes under torch.autocast: the same integers, and a backward pass in bfloat16."""

import copy

import pytest
import torch
from torch import nn

from block_networks import Gated, Shared, chain, converted, images
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits


def step(model, x, out, precision):
    """The output and the gradients of one step, in the precision of autocast or in float32."""
    given = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        y = model(given) + 0
    y.backward(out.to(y.dtype))
    return y.detach(), {"x": given.grad, **{n: p.grad for n, p in model.named_parameters()}}


def norms_of_terms(model, x, out):
    """The norms of what the gradient of each parameter of a normalization is the sum of."""
    found = {}

    def watch(name, norm):
        def keep(norm, inputs, y):
            y = y + 0
            channels = (1, -1, 1, 1)
            normalized = (y.detach() - norm.bias.view(channels)) / norm.weight.view(channels)

            def note(grad):
                found[f"{name}.bias"] = grad.norm()
                found[f"{name}.weight"] = (grad * normalized).norm()

            y.register_hook(note)
            return y

        norm.register_forward_hook(keep)

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            watch(name, module)
    step(model, x, out, torch.float32)
    return found


@pytest.mark.parametrize("make", [Gated, Shared, chain], ids=["gated", "shared", "chain"])
def test_integers_stay_and_gradients_are_near(native, rng, make):
    x, out = images(rng, (3, 16, 9, 8)), images(rng, (3, 16, 9, 8))
    model = converted(make, x)
    twin, watched = copy.deepcopy(model), copy.deepcopy(model)
    terms = norms_of_terms(watched, x, out)
    y, exact = step(model, x, out, torch.float32)
    low, near = step(twin, x, out, torch.bfloat16)
    assert torch.equal(low, y)
    differences = []
    for name, gradient in exact.items():
        assert near[name].dtype == torch.float32
        # At most eight roundings to eight bits lie between the output and a gradient, each off by
        # 2^-8 of what is summed at most. Not of the sum: a normalization further on takes a shift
        # of its input away again, so that the terms of a gradient to a shift or a scale nearly
        # cancel.
        error = (near[name] - gradient).norm() / max(gradient.norm(), terms.get(name, 0.0))
        assert error < 8 * 2**-8, name
        differences.append(bool(error > 0))
    assert any(differences)


def test_a_whole_network_trains_in_mixed_precision():
    torch.manual_seed(0)
    model = architectures.create_model("efficientnet-micro", 10)
    bits = dict.fromkeys(architectures.layers(model), LayerBits(4, 4))
    bits["_conv_stem"] = LayerBits(None, None)
    bits["_fc"] = LayerBits(2.4, None)
    quantize.convert_(model, bits)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    losses = []
    for _ in range(12):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_other_types_get_gradients_of_their_own(native, rng, dtype):
    layer = nn.Sequential(nn.Conv2d(8, 4, 1))
    quantize.convert_(layer, {"0": LayerBits(4, 4)})
    x = images(rng, (2, 8, 5, 5)).to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.abs().sum() > 0
