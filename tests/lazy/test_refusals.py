"""What code may not do with a lazy tensor is an error, as the table of its page says."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import micronet_kernels as kernels
from devices import DEVICE
from micronet.quantization.quantize import LayerBits, convert_

SIZE = (2, 8, 6, 6)


@pytest.fixture
def network(rng):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    convert_(model, {"0": LayerBits(4, 4)})
    return model, torch.randn(SIZE, generator=rng)


@pytest.mark.parametrize(
    "other",
    [torch.zeros(2, 2), torch.zeros(2, 8, 4, 4, dtype=torch.float64)],
    ids=["shape", "dtype"],
)
def test_data_of_another_kind(network, other):
    model, x = network
    h = model(x)
    with pytest.raises(RuntimeError, match=r"that waits for its reader on .* cannot be replaced b"):
        h.data = other


@pytest.mark.device
@pytest.mark.parametrize("place", ["cpu", DEVICE], ids=str)
def test_data_of_another_device(network, place):
    """A plain tensor would be there afterwards; this one would have a device and memory apart."""
    model, x = network
    other = DEVICE if place == "cpu" else torch.device("cpu")
    h = model.to(place)(x.to(place))
    with pytest.raises(RuntimeError, match=rf" on {place}.* cannot be replaced by .* on {other}"):
        h.data = torch.zeros(h.shape, device=other)


def test_weights_written_before_they_are_used_again(network):
    model, x = network
    with kernels.recompute_in_backward():
        loss = model(x).square().mean()
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="were modified in place between its forward and its"):
        loss.backward()


REFUSED = {
    "numpy": lambda t: t.detach().numpy(),
    "data_ptr": lambda t: t.data_ptr(),
    "pickle": pickle.dumps,
    "copy": lambda t: copy.deepcopy(t.detach()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_memory_inside_a_pack_hook(network, name):
    model, x = network
    h = model[0](x)
    with saved_tensors_hooks(REFUSED[name], lambda packed: packed):
        with pytest.raises(RuntimeError, match=r"subclasses|data pointer"):
            h.square()
    # Outside of it, each works.
    assert REFUSED[name](h) is not None


def test_a_pack_hook_may_move_and_compute(network):
    model, x = network
    h = model[0](x)
    with saved_tensors_hooks(lambda t: t.cpu() * 1, lambda packed: packed):
        y = h.square()
    y.sum().backward()
    assert model[0].weight.grad is not None


def linear(y):
    return y.sum()


def squared(y):
    return y.square().sum()


@pytest.mark.parametrize("by", ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "5.weight"])
@pytest.mark.parametrize("of", ["0.weight", "1.weight", "3.weight"])
@pytest.mark.parametrize("allow_unused", [False, True])
def test_a_second_derivative_by_any_parameter(rng, of, by, allow_unused):
    """Neither "not used in the graph" nor None, which a reader takes for zero."""
    layers = [nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.SiLU()]
    model = nn.Sequential(*layers, nn.Conv2d(8, 4, 1))
    convert_(model, {name: LayerBits(4, 4) for name in ("0", "3", "5")})
    loss = squared(model(torch.randn(SIZE, generator=rng)))
    parameters = dict(model.named_parameters())
    (grad,) = torch.autograd.grad(loss, parameters[of], create_graph=True)
    with pytest.raises(RuntimeError, match="a convolution of integers has a first derivative only"):
        torch.autograd.grad(grad.sum(), parameters[by], allow_unused=allow_unused)


def test_a_second_derivative_by_the_input_and_by_what_comes_after(network):
    model, x = network
    x.requires_grad_()
    for loss, by in ((squared, x), (linear, model[0].weight), (linear, model[1].weight)):
        found = torch.autograd.grad(loss(model(x)), [x, model[0].weight], create_graph=True)
        for grad in found:
            with pytest.raises(RuntimeError, match="has a first derivative only"):
                torch.autograd.grad(grad.sum(), by, allow_unused=True)


def test_a_gradient_made_for_a_second_derivative_is_the_gradient(network):
    model, x = network
    loss = squared(model(x))
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
