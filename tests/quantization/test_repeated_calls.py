"""Calls of quantized layers that bring no new batch: made again in the backward pass, or empty."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import micronet


def network(step):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    weights, inputs = micronet.WeightPrecision(3, step=step), micronet.ActivationPrecision(3)
    if step == "learned":
        inputs = micronet.ActivationPrecision(3, step=step)
    micronet.quantize_(model, weights, inputs)
    micronet.calibrate_(model, [torch.randn(2, 3, 6, 6)])
    return model.train()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("step", ["range", "learned"])
def test_a_checkpointed_network_has_the_gradients_of_any_other(step, reentrant):
    model, again = network(step), network(step)
    for scale in (1.0, 3.0):
        images = (scale * torch.randn(2, 3, 6, 6)).requires_grad_()
        plain, checkpointed = model(images), checkpoint(again, images, use_reentrant=reentrant)
        plain.square().sum().backward()
        checkpointed.square().sum().backward()
        assert torch.equal(plain, checkpointed)
        for first, second in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(first.grad, second.grad)
        for first, second in zip(model.buffers(), again.buffers(), strict=True):
            assert torch.equal(first, second)


def plain(layer, x):
    return layer(x)


def again(layer, x):
    return checkpoint(layer, x, use_reentrant=False)


def again_by_another_pass(layer, x):
    return checkpoint(layer, x, use_reentrant=True)


def gradients(call, maps, order):
    """Of two steps of a layer that all maps share: those of its parameters and of the maps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1))
    micronet.quantize_(model, 3, 3)
    model.train()
    found = []
    for scale in (1.0, 0.5):
        inputs = [(scale * x).requires_grad_() for x in maps]
        losses = [call(model, x).square().mean() for x in inputs]
        if order == "one sum":
            sum(losses).backward()
        elif order == "one by one":
            for loss in losses:
                loss.backward()
        elif order == "twice":
            sum(losses).backward(retain_graph=True)
            sum(losses).backward()
        else:  # the first of them is left alone
            sum(losses[1:]).backward()
        grads = [p.grad for p in (*model.parameters(), *inputs)]
        found += [grad.clone() for grad in grads if grad is not None]
        found += [buffer.clone() for buffer in model.buffers()]
    return found


# Largest values of a head's inputs; those of one size have the same extremes, not the same range.
@pytest.mark.parametrize("largest", [(1.0, 2.0, 3.0), (3.0, 2.0, 1.0), (1.0, 3.0, 1.0)])
@pytest.mark.parametrize("order", ["one sum", "one by one", "twice", "all but one"])
@pytest.mark.parametrize("call", [again, again_by_another_pass])
def test_a_layer_that_several_maps_share_may_be_made_again(largest, order, call, rng):
    if (order, call) == ("twice", again_by_another_pass):
        order = "one sum"  # torch itself refuses to go through such a graph twice
    if order == "one by one" and len(set(largest)) < len(largest):
        largest = (1.0, 3.0, 2.0)  # of calls alike the latest is made again first
    maps = [torch.rand(2, 4, 4, 4, generator=rng) * 9 for _ in largest]
    maps = [x.clamp(0, top) for x, top in zip(maps, largest, strict=True)]
    wanted, found = gradients(plain, maps, order), gradients(call, maps, order)
    assert len(wanted) == len(found)
    # Passes of their own add up the gradients of parameters in another order.
    sums = [value for value in wanted if value.shape in {(3, 4, 3, 3), (3,)}]
    assert sums
    for first, second in zip(wanted, found, strict=True):
        if call is again_by_another_pass and any(first is value for value in sums):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(first, second)


def test_calls_without_a_backward_pass_do_not_confuse_it(rng):
    model, other = network("range"), network("range")
    for count in (3, 100):
        images = torch.randn(2, 3, 6, 6, generator=rng)
        with torch.no_grad():
            for number in range(count):
                batch = images * (1 + number % 7)
                assert torch.equal(model(batch), other(batch))
        images.requires_grad_()
        model(images).square().sum().backward()
        checkpoint(other, images, use_reentrant=False).square().sum().backward()
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_moves_nothing(step, training):
    model = network(step).train(training)
    before = copy.deepcopy(model.state_dict())
    assert model(torch.randn(0, 3, 6, 6)).shape == (0, 16)
    model(torch.randn(0, 3, 6, 6)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_first_batch_may_be_empty():
    layer = nn.Sequential(nn.Linear(4, 2))
    learned = micronet.ActivationPrecision(4, step="learned")
    micronet.quantize_(layer, 4, learned)
    assert layer(torch.randn(0, 4)).shape == (0, 2)
    assert not layer[0].input_quantizer.is_ready()
    assert bool(layer(torch.randn(3, 4)).isfinite().all())
