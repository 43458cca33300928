"""All weights of a network in one call: each as it would be alone."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import micronet_kernels as kernels
from micronet_kernels import dispatch
from samples import DTYPES, NOTHING, SCHEMES, draw_mask, levels_for

OP = torch.ops.micronet
# A small network: stem, depthwise, pointwise and last layers, more of them than threads.
SHAPES = [(32, 3, 3, 3), (32, 1, 3, 3), (16, 32, 1, 1), (96, 16, 1, 1), (96, 1, 5, 5), (4, 96)]
SHAPES += [(96, 4), (24, 96, 1, 1), (1, 1), (7,), (100, 1280), (3, 5003)]


def network(rng, dtype):
    """Weights with masks for every other one, and 2 to 256 levels."""
    weights = [torch.randn(shape, generator=rng).to(dtype) for shape in SHAPES]
    masks = [draw_mask(rng, w.shape) if i % 2 else None for i, w in enumerate(weights)]
    levels = [(16, 5, 256, 3)[i % 4] for i in range(len(weights))]
    return weights, levels, masks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_is_what_it_is_alone(on_all, rng, same, threads, dtype, scheme):
    weights, levels, masks = network(rng, dtype)
    levels = [levels_for(scheme, n) for n in levels]
    together = on_all(lambda: kernels.fake_quant_weights(weights, levels, masks, scheme))
    for y, w, n, mask in zip(together, weights, levels, masks, strict=True):
        same(y, kernels.fake_quant_per_channel(w, n, mask, scheme))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_gradient_is_masked_by_its_own_mask(on_all, rng, same, threads, dtype):
    weights, levels, masks = network(rng, dtype)
    for w in weights:
        w.requires_grad_()
    grads = [torch.randn(w.shape, generator=rng).to(dtype) for w in weights]

    def gradients():
        values = kernels.fake_quant_weights(weights, levels, masks)
        return torch.autograd.grad(values, weights, grads)

    for ours, grad, mask in zip(on_all(gradients), grads, masks, strict=True):
        same(ours, grad if mask is None else OP.mask_gradient(grad, mask))


def test_a_weight_without_a_loss_has_no_gradient(backend, rng):
    weights, levels, masks = network(rng, torch.float32)
    for w in weights:
        w.requires_grad_()
    values = kernels.fake_quant_weights(weights, levels, masks)
    values[1].sum().backward()
    assert torch.equal(weights[1].grad.flatten(), kernels.unpack_bits(masks[1], 288).float())
    assert all(w.grad is None or not w.grad.any() for w in [weights[0], *weights[2:]])


def test_some_weights_are_frozen(backend, rng):
    weights, levels, masks = network(rng, torch.float32)
    weights[1].requires_grad_()
    values = kernels.fake_quant_weights(weights, levels, masks)
    sum(v.sum() for v in values).backward()
    assert torch.equal(weights[1].grad.flatten(), kernels.unpack_bits(masks[1], 288).float())
    assert all(w.grad is None for w in [weights[0], *weights[2:]])


def test_gradients_that_are_views_are_packed_in_logical_order(backend, rng):
    w = torch.randn(6, 5, generator=rng).requires_grad_()
    keep = torch.rand(6, 5, generator=rng) > 0.5
    (y,) = kernels.fake_quant_weights([w], [16], [kernels.pack_bits(keep)])
    grad = torch.randn(5, 6, generator=rng).t()
    y.backward(grad)
    assert torch.equal(w.grad, torch.where(keep, grad, 0.0))


def test_no_gradient_is_a_view_of_another(backend, rng):
    """Without a mask the gradient is copied: the caller's may be changed in place later."""
    grad = torch.randn(3, 4, generator=rng)
    (ours,) = OP.mask_gradients([grad], [NOTHING])
    assert torch.equal(ours, grad) and ours.data_ptr() != grad.data_ptr()


def test_rejects(backend):
    w = torch.ones(2, 4)
    with pytest.raises(ValueError, match="weights is empty, but must hold at least one tensor"):
        kernels.fake_quant_weights([], [], [])
    with pytest.raises(ValueError, match="levels has 2 entries for 1 weights"):
        kernels.fake_quant_weights([w], [16, 16], [None])
    with pytest.raises(ValueError, match="masks has 2 entries for 1 grads"):
        OP.mask_gradients([w], [NOTHING, NOTHING])
    with pytest.raises(TypeError, match=r"one of weights is torch.bfloat16, but must be"):
        kernels.fake_quant_weights([w, w.bfloat16()], [16, 16], [None, None])
    with pytest.raises(ValueError, match="mask has 2 bytes for 8 weights, which need 1"):
        kernels.fake_quant_weights([w, w], [16, 16], [None, torch.ones(2, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="levels is 1, but AFFINE has 2 to 256"):
        kernels.fake_quant_weights([w, w], [16, 1], [None, None])


class Seen(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modes_of_the_dispatcher_see_the_call(backend):
    w = torch.ones(2, 4, requires_grad=True)
    with Seen() as seen:
        kernels.fake_quant_weights([w], [16], [None])
    assert "micronet.fake_quant_weights.default" in seen.ops


@pytest.mark.parametrize("op", ["fake_quant_weights", "mask_gradients"])
def test_a_forced_backend_gets_the_calls_that_the_extension_could_serve(monkeypatch, op):
    called = []
    table = dispatch.TABLE["reference"]["any"]
    given = table[op]
    monkeypatch.setitem(table, op, lambda *args: called.append(op) or given(*args))
    w = torch.ones(2, 4, requires_grad=True)
    bits = torch.tensor([0x0F], dtype=torch.uint8)

    def gradient():
        (y,) = kernels.fake_quant_weights([w], [16], [bits])
        return torch.autograd.grad(y.sum(), w)[0]

    with kernels.use_backend("reference"):
        assert gradient().tolist() == [[1.0] * 4, [0.0] * 4]
    assert called == [op]
    assert gradient().tolist() == [[1.0] * 4, [0.0] * 4]
    assert called == [op] or "native" not in kernels.available_backends()


def test_a_device_without_a_gradient_over_lists_takes_that_of_each_weight():
    """As where the extension is not built; the meta device stands for it."""
    weights = [torch.empty(shape, device="meta", requires_grad=True) for shape in [(2, 4), (3, 5)]]
    masks = [torch.empty(count, dtype=torch.uint8, device="meta") for count in (1, 0)]
    values = OP.fake_quant_weights(weights, masks, [16, 5], 0)
    assert ["fake_quant_per_channel" in str(y.grad_fn) for y in values] == [True, True]
    assert [y.shape for y in values] == [w.shape for w in weights]
