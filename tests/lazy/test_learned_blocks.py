"""Blocks of learned steps and of more than four bits: what a step keeps, and what it refuses."""

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from block_networks import Gated, chain, images
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.precision import LayerBits

LEARNED = {"weight_step": "learned", "activation_step": "learned"}
PRECISIONS = [
    LayerBits(4, 4, **LEARNED),
    LayerBits(4, 4, **LEARNED, offset=True),
    LayerBits(8, 8),
    LayerBits(8, 8, symmetric=True),
    LayerBits(5, 3, activation_step="learned"),
]


def converted(make, x, bits):
    """A quantized network that has seen a batch."""
    model = make()
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), bits))
    with torch.no_grad():
        model(x)
    return model


def kept(model, x):
    """Bytes that a forward pass saves by their types, parameters left out."""
    found = {}

    def keep(t):
        storage = t.untyped_storage()
        found[storage.data_ptr()] = t.dtype, storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = model(x)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {}
    for at, (dtype, size) in found.items():
        if at not in own and size > 4096:
            sizes[dtype] = sizes.get(dtype, 0) + size
    assert y.requires_grad
    return sizes


def test_a_learned_step_keeps_integers_and_codes_and_the_first_input(rng):
    x = images(rng, (4, 16, 32, 32))
    plane = x[:, :1].numel()
    sizes = kept(converted(chain, x, LayerBits(4, 4, **LEARNED)), x)
    assert sizes.pop(torch.float32) == 16 * plane * 4  # that is no block's
    assert sizes == {torch.int16: 2 * plane * (24 + 24), torch.uint8: plane * (16 + 24 + 24) // 2}


def test_eight_bits_keep_no_integers_of_depthwise_convolutions(rng):
    x = images(rng, (4, 16, 32, 32))
    plane = x[:, :1].numel()
    model = converted(chain, x, LayerBits(8, 8))
    expected = {torch.int32: 4 * plane * 24, torch.uint8: plane * (16 + 24 + 24) + x.numel() // 8}
    assert kept(model, x) == expected
    with kernels.recompute_in_backward("none"):
        assert kept(model, x)[torch.int32] == 2 * 4 * plane * 24


@pytest.mark.parametrize("bits", PRECISIONS, ids=str)
@pytest.mark.parametrize("make", [chain, Gated])
def test_gradients_are_those_of_rounded_floats(monkeypatch, rng, make, bits):
    """The same layers on the values of their codes, by torch's own convolutions.

    Now and then its sums, in another order, take a value to another code or over an end of a range,
    where gradients jump.
    """
    agree = [agrees_with_rounded_floats(monkeypatch, rng, make, bits) for _ in range(4)]
    assert sum(agree) >= 2


def agrees_with_rounded_floats(monkeypatch, rng, make, bits):
    x = images(rng, (3, 16, 9, 8))
    model = converted(make, x, bits)
    grad = torch.randn(3, 16, 9, 8, generator=rng)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    found = []
    for in_floats in (False, True):
        monkeypatch.setattr(QuantizedLayer, "is_exact", property(lambda _, f=in_floats: not f))
        model.load_state_dict(state)
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        y.backward(grad)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"x": inputs.grad, "y": y.detach() + 0, **gradients})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    errors = {name: (ours[name] - theirs[name]).abs().max() for name in theirs}
    return all(errors[n] <= 2e-4 * theirs[n].abs().max() + 1e-6 for n in theirs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("at", ["the input", "a bias of normalization"])
def test_what_is_not_finite_makes_all_that_follows_nan(rng, bad, at):
    x = images(rng, (2, 16, 6, 6))
    model = converted(chain, x, LayerBits(4, 4, **LEARNED))
    if at == "the input":
        x[1, 3, 2, 1] = bad
    else:
        with torch.no_grad():
            model[1].bias[5] = bad
    assert model(x).isnan().all()
    y = model.eval()(x)
    assert not y[1].isfinite().all()


def test_a_convolution_with_a_bias_waits_for_its_normalization(rng):
    x = images(rng, (4, 16, 8, 8))
    torch.manual_seed(0)
    with_bias = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    nn.init.normal_(with_bias[0].bias)
    quantize.convert_(with_bias, {"0": LayerBits(4, 4)})
    for training in (True, False):
        with_bias.train(training)
        mean, variance = with_bias[1].running_mean.clone(), with_bias[1].running_var.clone()
        y = with_bias(x)
        assert isinstance(y, kernels.LazyTensor) and y.block().is_normalized
        ours = with_bias[1].running_mean.clone(), with_bias[1].running_var.clone()
        with_bias[1].running_mean.copy_(mean), with_bias[1].running_var.copy_(variance)
        codes = (with_bias.eval()[0] if training else with_bias[0])(x) + 0
        norm = with_bias[1].train(training)
        expected = torch.relu(norm(codes))
        assert torch.allclose(y, expected, atol=1e-5)
        assert torch.allclose(ours[0], norm.running_mean, atol=1e-6)
        assert torch.allclose(ours[1], norm.running_var, atol=1e-6)
    y = with_bias.train()(x)
    y.square().sum().backward()
    assert with_bias[0].bias.grad.abs().max() < 1e-3 < with_bias[0].weight.grad.abs().max()
