"""Torch's functions while a quantized network is called in evaluation, and everywhere else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import micronet_kernels as kernels
from devices import DEVICE
from mean_networks import SHAPE, images_of, in_lanes, means_network, quantized
from packed_networks import bits_of


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test leaves a mode behind."""
    yield
    assert _get_current_function_mode_stack() == []


MEANS = {
    "method": lambda x: x.mean((2, 3)),
    "list": lambda x: x.mean([-1, 2]),
    "axis": lambda x: x.mean(axis=(3, 2)),
    "of no type": lambda x: torch.mean(x, (2, 3), dtype=None, out=None),
    "kept": lambda x: torch.mean(x, (-2, -1), True).flatten(1),
    "keyword": lambda x: torch.mean(input=x, dim=(2, 3), keepdim=True).flatten(1),
    "pool": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "pool of a pair": lambda x: F.adaptive_avg_pool2d(x, output_size=(1, 1)).flatten(1),
    "module": nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
}


@pytest.mark.parametrize("mean", MEANS.values(), ids=MEANS)
@pytest.mark.parametrize("last", [False, True])
def test_every_spelling_of_a_mean_has_the_stated_order(mean, last, rng):
    images = images_of(rng)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(quantized(lambda _, x: mean(x))(images), in_lanes(images)[..., 0])
        values = quantized(lambda y, x: y + 0.0)
        of_values = copy.deepcopy(values)
        of_values.do = lambda y, x: mean(F.hardswish(y))
        expected = in_lanes(F.hardswish(values(images)))[..., 0]
        assert torch.equal(of_values(images), expected)
        # Of what waits for its reader, behind a function or not, and with a gate.
        for wait in (lambda y: y, F.relu, lambda y: y * torch.full((len(y), 6, 1, 1), 0.7)):
            of_values.do = lambda y, x, wait=wait: mean(wait(y))
            values.do = lambda y, x, wait=wait: wait(y) + 0.0
            assert torch.equal(of_values(images), in_lanes(values(images))[..., 0])


OTHERS = {
    "one axis": lambda x: x.mean(3),
    "other axes": lambda x: x.mean((1, 2)),
    "all": lambda x: x.mean(),
    "dtype": lambda x: x.mean((2, 3), dtype=torch.float64),
    "double": lambda x: x.double().mean((2, 3)),
    "rows": lambda x: x[0].mean((1, 2)),
    "two positions": lambda x: F.adaptive_avg_pool2d(x, (2, 1)),
    "out": lambda x: torch.mean(x, (2, 3), out=x.new_empty(x.shape[:2])),
    "out of sigmoid": lambda x: torch.sigmoid(x, out=torch.empty_like(x)),
    "half": lambda x: F.silu(x.bfloat16()),
    "nothing": lambda x: F.silu(x[:0]),
    "five": lambda x: x[:, :, None].mean((2, 3)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_functions_are_torchs_own(other, rng):
    images = images_of(rng)
    with torch.no_grad():
        found, wanted = quantized(lambda _, x: other(x))(images), other(images)
    assert found.dtype == wanted.dtype and torch.equal(found, wanted)


def stated(x, function):
    """The function by a block of values."""
    return bits_of(function(kernels.LazyTensor.wait(x.reshape(1, -1, 1, 1)))).view(x.shape)


ACTIVATIONS = {
    "silu": (F.silu, F.silu, False),
    "silu in place": (lambda x: F.silu(x, inplace=True), F.silu, True),
    "module in place": (nn.SiLU(inplace=True), F.silu, True),
    "sigmoid": (torch.sigmoid, torch.sigmoid, False),
    "sigmoid of a tensor": (torch.Tensor.sigmoid, torch.sigmoid, False),
    "sigmoid in place": (torch.sigmoid_, torch.sigmoid, True),
    "functional": (F.sigmoid, torch.sigmoid, False),
}


@pytest.mark.filterwarnings("ignore:nn.functional.sigmoid")
@pytest.mark.parametrize(("call", "function", "in_place"), ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("axes", [1, 2, 3, 4, 5])
def test_activations_of_any_tensor_are_the_stated_ones(call, function, in_place, axes, rng):
    x = torch.randn((9, 50, 3, 2, 7)[:axes], generator=rng)
    for lies in (x, x.mT.clone().mT if axes > 1 else x, last_of(x)):
        given, model = lies.clone(), quantized(lambda *_: call(given))  # noqa: B023
        with torch.no_grad():
            found = model(images_of(rng))
        assert torch.equal(bits_of(found), stated(x, function))
        assert found.is_contiguous() or not lies.is_contiguous()
        assert (found is given) == in_place and torch.equal(given, found if in_place else lies)


def last_of(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def test_zeros_keep_their_sign_and_what_is_no_number_stays_none():
    x = torch.tensor([-0.0, 0.0, torch.nan, torch.inf])
    assert kernels.swish(x).isnan().tolist() == [False, False, True, False]
    assert torch.equal(torch.signbit(kernels.swish(x))[:2], torch.tensor([True, False]))
    assert kernels.sigmoid(-x)[3] == 0 and kernels.swish(x)[3] == torch.inf


@pytest.mark.slow
def test_hard_functions_are_the_stated_ones_whatever_vectors_they_are_cut_into(rng):
    """Of torch on the CPU: one float in seven of some exponents, one in thousands of all others."""
    every = torch.arange(int(torch.randint(7, (), generator=rng)), 2**23, 7, dtype=torch.int32)
    exponents = [127, 128, 129, int(torch.randint(1, 255, (), generator=rng))]
    some = torch.arange(-(2**31), 2**31, 2999).to(torch.int32)
    for bits in [*(every + (e << 23) for e in exponents), some]:
        for x in (bits.view(torch.float32), -bits.view(torch.float32)):
            x = x[~x.isnan()]
            start = int(torch.randint(1, 16, (), generator=rng))
            odd = x[start : start + 7 * 600].view(-1, 7)[:, :5]
            lies = x[: 2**20].view(2, 8, -1, 64)
            for part in (x, x[start:], odd, last_of(lies)):
                hard = (part + 3).clamp(0, 6)
                six = torch.full((1,), 6.0)
                sixth, product = hard / six, part * hard / six
                for call, wanted in ((F.hardsigmoid, sixth), (F.hardswish, product)):
                    found = call(part)
                    nans = wanted.isnan()
                    assert torch.equal(found.isnan(), nans)
                    assert torch.equal(bits_of(found[~nans]), bits_of(wanted[~nans]))
                by_steps = kernels.exact_functions.hardswish_by_steps(part)
                assert torch.equal(bits_of(by_steps[~nans]), bits_of(product[~nans]))


@pytest.mark.device
@pytest.mark.parametrize(
    "function",
    [F.hardswish, F.hardsigmoid, nn.Hardswish(inplace=True), F.silu, lambda x: x.mean((2, 3))],
)
def test_a_device_gives_the_bits_of_the_cpu(function, rng):
    model, images = quantized(lambda _, x: function(4 * x)), images_of(rng)
    with torch.no_grad():
        wanted = bits_of(model(images))
        assert torch.equal(bits_of(model.to(DEVICE)(images.to(DEVICE)).cpu()), wanted)


def test_training_is_torchs_own(rng):
    model = means_network(rng).train()
    plain = copy.deepcopy(model)
    plain._forward_pre_hooks.clear()
    plain._forward_hooks.clear()
    images = images_of(rng)
    found = [net(images.clone().requires_grad_()) for net in (model, plain)]
    assert torch.equal(bits_of(found[0]), bits_of(found[1]))
    for logits in found:
        logits.logsumexp(1).sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(bits_of(one.grad), bits_of(other.grad))


def test_gradients_in_evaluation_are_those_of_torchs_own_functions(rng):
    """But for rounding, which the logits differ by too; the forward pass has the same bits."""
    model, images = means_network(rng), images_of(rng)
    found = []
    for call in (model, model.forward):
        x = images.clone().requires_grad_()
        logits = call(x)
        weights = list(model.parameters())
        found.append(torch.autograd.grad(logits.logsumexp(1).sum(), [x, *weights]))
    for one, other in zip(*found, strict=True):
        # A code that changes by one step moves few of many gradients.
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-4
    with torch.no_grad():
        assert torch.equal(bits_of(model(images)), bits_of(model(images.requires_grad_())))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.silu(x * 1, inplace=True),
        lambda x: torch.sigmoid_(x * 1),
        lambda x: F.silu(x).sigmoid(),
        lambda x: x.mean((2, 3)),
    ],
)
def test_derivatives_of_both_orders(function, rng):
    """Of the first two, which torch's own functions have."""
    x = torch.randn(2, *SHAPE, generator=rng).requires_grad_()
    found = []
    model = quantized(lambda _, x: function(x))
    for call in (model, model.forward):
        (first,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append((first.detach(), second))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=2**-18, atol=2**-20)
