"""Gradients that wait: what hooks, checkpoints, buffers and odd values may not change."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import micronet_kernels as kernels
from block_networks import chain, converted, images

SIZE = (2, 16, 6, 6)


@pytest.fixture
def network(rng):
    x = images(rng, SIZE)
    return converted(chain, x), x


def test_a_closed_relu_stops_infinities(network):
    """The root of a ReLU has an infinite slope where it is closed."""
    model, x = network
    found = []
    for late in (False, True):
        model.zero_grad()
        h = model[1](model[0](x))
        F.relu(h + 0 if late else h).sqrt().sum().backward()
        found.append(model[1].bias.grad.clone())
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_a_relu_passes_the_gradient_of_a_nan(on_all):
    acc = torch.tensor([-1.0, 0.0, 2.0, torch.nan]).view(1, 1, 2, 2)
    acc = acc.contiguous(memory_format=torch.channels_last)
    grad = torch.full_like(acc, torch.inf)
    none, k = torch.empty(0), torch.tensor([[1.0], [0.0], [0.0]])
    one, zero = torch.ones(1), torch.zeros(1)
    op = torch.ops.micronet.block_gradient
    sums = on_all(lambda: op(grad, acc, one, zero, 1, none, 2, 0, none, k, torch.float32))
    assert sums.flatten()[:3].tolist() == [0.0, 0.0, torch.inf]


def test_one_buffer_for_the_gradients_of_several_batches(network):
    model, x = network
    buffer, found = torch.empty(2, 24, 6, 6), []
    for number in range(1, 4):
        h = model[1](model[0](x)).detach().requires_grad_()
        buffer.fill_(number)
        F.silu(h).backward(buffer)
        found.append(h.grad)
    torch.testing.assert_close(found[2], 3 * found[0])
    torch.testing.assert_close(found[1], 2 * found[0])
    h = model[1](model[0](x))
    (gradient,) = torch.autograd.grad(F.relu(h), h, buffer)
    before = gradient.clone()
    buffer.zero_()
    assert torch.equal(gradient, before) and before.abs().sum() > 0


def test_a_gradient_overwritten_before_it_is_read_is_an_error(network):
    model, x = network
    kept = []
    h = model[1](model[0](x))

    def overwrite(gradient):
        kept[0].zero_()

    h.register_hook(overwrite)
    z = F.silu(h)
    z.register_hook(kept.append)
    with pytest.raises(RuntimeError, match="modified in place before"):
        (z * 2).sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_whatever_starts_the_backward_pass(network, reentrant):
    model, x = network
    found = []
    for starts in ("loss", "output", "function"):
        model.zero_grad()
        h = model[2](model[1](model[0](x.clone().requires_grad_())))
        y = checkpoint(lambda t: model[4](model[3](t)), h, use_reentrant=reentrant)
        ones = torch.ones(y.shape)
        if starts == "loss":
            (y * ones).sum().backward()
        elif starts == "output":
            y.backward(ones)
        else:
            torch.autograd.backward([y], [ones])
        found.append(model[0].weight.grad.clone())
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_gradient_beyond_a_checkpoint(network):
    model, x = network
    h = model[2](model[1](model[0](x)))
    y = checkpoint(lambda t: model[4](model[3](t)), h, use_reentrant=False)
    (found,) = torch.autograd.grad(y.sum(), h)
    (expected,) = torch.autograd.grad(model[4](model[3](h)).sum(), h)
    torch.testing.assert_close(found, expected)


def test_data_takes_other_values(network):
    model, x = network
    with torch.no_grad():
        h = model[0](x)
        h.data = torch.ones(h.shape)
        assert h.sum() == h.numel() and torch.equal(F.relu(h), torch.ones(h.shape))
        h.data = h.data.mul(2)
        assert h.max() == 2
        with pytest.raises(RuntimeError, match="cannot be replaced by"):
            h.data = torch.ones(3)


def test_a_plain_copy_is_its_own(network):
    model, x = network
    with torch.no_grad():
        h = model[1](model[0](x))
        before = h.clone()
        h.plain().zero_()
        assert torch.equal(h, before) and torch.equal(F.relu(h), F.relu(before))


def test_means_are_tensors_of_their_own(network):
    model, x = network
    with torch.no_grad():
        h = model[2](model[1](model[0](x)))
        for mean in (h.mean((2, 3)), h.mean((-1, -2), True), F.adaptive_avg_pool2d(h, 1)):
            assert not mean._is_view()
            mean += torch.nn.Parameter(torch.ones(()))
        assert F.adaptive_avg_pool2d(h, 1).stride() == F.adaptive_avg_pool2d(h + 0, 1).stride()


def test_another_default_type(network):
    model, x = network
    torch.set_default_dtype(torch.float64)
    try:
        model[2](model[1](model[0](x))).mean((2, 3)).square().sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert model[0].weight.grad.dtype == torch.float32


def test_a_norm_of_other_channels_is_refused_as_torch_does(network):
    model, x = network
    h = model[0](x)
    for wrong in (torch.ones(1), torch.ones(25)):
        with pytest.raises(RuntimeError, match="should contain 24 elements"):
            F.batch_norm(h, None, None, wrong, None, True)
        with pytest.raises(RuntimeError, match="should contain 24 elements"):
            F.batch_norm(h, wrong, wrong)


def test_sums_of_gradients_keep_torchs_types(network):
    model, x = network
    seen = []
    h = model[2](model[1](model[0](x)))
    h.register_hook(lambda g: seen.append((g + torch.ones((), dtype=torch.float64)).dtype))
    h.register_hook(lambda g: seen.append((g + torch.zeros(g.shape, dtype=torch.float64)).dtype))
    h.mean((2, 3)).sum().backward()
    assert seen == [torch.float32, torch.float64]


def test_pack_hooks_may_lose_the_order_in_memory(network):
    model, x = network
    found = []
    for pack in (lambda t: (t.shape, t.flatten()), lambda t: t):
        model.zero_grad()
        unpack = lambda p: p[1].view(p[0]) if isinstance(p, tuple) else p  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = model(x)
        y.square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(*found, strict=True))
    assert isinstance(model[0](x), kernels.LazyTensor)


# Gradients that a convolution rounds ------------------------------------------------------------


def narrow_gradients(network, watch):
    """Of all parameters and the input under autocast; `watch` is given what layers return."""
    model, x = network
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = [x]
        for layer in model:
            h.append(layer(h[-1]))
        watch(h[1:-1])
    h[-1].square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("remakes", ["none", "all"])
def test_gradients_that_wait_are_rounded_as_numbers_are(network, remakes):
    """A hook that returns numbers makes every node round those of float32 instead."""
    with kernels.recompute_in_backward(remakes):
        waiting = narrow_gradients(network, lambda outputs: None)
        numbers = narrow_gradients(
            network, lambda outputs: [h.register_hook(lambda g: g + 0) for h in outputs]
        )
    assert all(map(torch.equal, waiting, numbers))


def test_whoever_looks_at_a_gradient_finds_it_unrounded(network):
    seen, kept = [], []

    def watch(outputs):
        for h in outputs:
            h.register_hook(lambda g: seen.append(g.double().clone()))
            h.retain_grad()
            kept.append(h)

    looked_at = narrow_gradients(network, watch)
    found = [h.grad for h in reversed(kept)]
    assert all(g.dtype == torch.float32 for g in found)
    assert all(map(torch.equal, seen, (g.double() for g in found)))
    # Those that convolutions round, of their own outputs, have more digits than are left of them.
    of_sums = [
        g for h, g in zip(reversed(kept), found, strict=True) if h is kept[0] or h is kept[3]
    ]
    assert len(of_sums) == 2
    assert all((g != g.bfloat16()).any() for g in of_sums)
    assert all(map(torch.equal, looked_at, narrow_gradients(network, lambda outputs: None)))


def test_a_second_reader_of_sums_adds_numbers(network):
    model, x = network

    def gradient(late):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = model[0](x)
            z = model[1](h)
        (z.square().sum() + (h + 0 if late else h).square().sum()).backward()
        return model[0].weight.grad.clone()

    assert torch.equal(gradient(False), gradient(True))


def test_a_gradient_overwritten_before_a_convolution_rounds_it_is_an_error(network):
    model, x = network
    kept = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = model[0](x)
        z = model[1](h)

    def overwrite(gradient):
        kept[0].zero_()

    z.register_hook(kept.append)
    h.register_hook(overwrite)
    with pytest.raises(RuntimeError, match="modified in place before"):
        (z * 2).sum().backward()
