"""A lazy tensor is a tensor: what nobody may be able to tell, one by one, with known answers."""

import copy
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

import micronet_kernels as kernels
from block_networks import Gated, chain, converted, images
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet_kernels.lazy.block import Block

SIZE = (2, 16, 6, 6)


@pytest.fixture
def lazy(rng):
    """A convolution, normalized and activated, and a function that makes its output again."""
    x = images(rng, SIZE)
    model = converted(chain, x)[:3]
    return model, lambda: model(x)


def test_all_readers_share_one_memory(lazy):
    _, make = lazy
    with torch.no_grad():
        h = make()
        assert isinstance(h, kernels.LazyTensor)
        alias, view = h.detach(), h[:, 1]
        h.mul_(2)
        view.zero_()
        assert torch.equal(alias, h) and (h[:, 1] == 0).all() and (h[:, 0] != 0).any()
        assert h.numpy().ctypes.data == h.detach().data_ptr() == alias.numpy().ctypes.data


def test_reading_changes_no_number(lazy):
    """Whoever reads, detaches or prints does not change what the next layer computes."""
    model, make = lazy
    model[1].register_forward_hook(lambda m, i, o: repr((o.detach().mean(), o.sum())) and None)
    logged = make() + 0
    model[1]._forward_hooks.clear()
    assert torch.equal(logged, make() + 0)


def test_an_edge_of_its_own(lazy):
    _, make = lazy
    h = make()
    h.retain_grad()
    seen = []
    h.register_hook(seen.append)
    (h * 3).sum().backward()
    assert torch.equal(h.grad, torch.full(h.shape, 3.0)) and torch.equal(seen[0], h.grad)
    h = make()
    (found,) = torch.autograd.grad(h.square().sum(), h)
    assert torch.equal(found, 2 * h)
    with torch.no_grad():
        h = make()
    assert not h.requires_grad and h.grad_fn is None
    assert make().detach_().grad_fn is None


def test_an_inner_tensor_can_be_asked_for(rng):
    """Grad-CAM: the gradient to what a fused successor has already read."""
    x = images(rng, SIZE)
    model = converted(chain, x)
    inner = model[1](model[0](x))
    y = model[3](model[2](inner)).sum()
    (asked,) = torch.autograd.grad(y, inner, retain_graph=True)
    inner.retain_grad()
    y.backward()
    assert torch.equal(inner.grad, asked) and asked.abs().sum() > 0


def test_a_hook_between_fused_nodes_is_heard(rng):
    x = images(rng, SIZE)
    model = converted(chain, x)
    found = []
    for factor in (None, 2.0):
        model.zero_grad()
        inner = model[1](model[0](x))
        if factor is not None:
            inner.register_hook(lambda g: g * 2.0)
        model[3](model[2](inner)).sum().backward()
        found.append([p.grad.clone() for p in model[:2].parameters()])
    for plain, doubled in zip(*found, strict=True):
        torch.testing.assert_close(doubled, 2 * plain)


def test_parameters_are_those_of_the_call(rng):
    x = images(rng, SIZE)
    model = converted(chain, x)[:3]
    with torch.no_grad():
        first, before = model(x), model(x) + 0
        gate = torch.full((2, 24, 1, 1), 0.5)
        product = model(x) * gate
        for p in model.parameters():
            p.mul_(3)
        gate.zero_()
        assert torch.equal(first + 0, before)
        torch.testing.assert_close(product + 0, before * 0.5)


def test_second_derivatives_are_refused_in_one_sentence(lazy):
    model, make = lazy
    (grad,) = torch.autograd.grad(make().square().sum(), model[0].weight, create_graph=True)
    assert torch.isfinite(grad).all()
    with pytest.raises(RuntimeError, match="first derivative only"):
        (make().sum() + grad.norm()).backward()


def test_a_raising_hook_leaves_nothing_behind(rng):
    x = images(rng, SIZE)
    model = converted(Gated, x)
    found = []
    for raises in (False, True):
        model.zero_grad()
        loss = model(x).square().sum()
        if raises:
            hook = model.reduce.weight.register_hook(lambda g: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                loss.backward(retain_graph=True)
            hook.remove()
            model.zero_grad()
        loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_other_layers_weights_change_between_passes(rng):
    """Integers that are made again are those of the forward pass, or the pass is refused."""
    x = images(rng, SIZE)
    model = converted(chain, x)
    with kernels.recompute_in_backward():
        loss = model(x).square().sum()
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_recomputing_is_of_one_thread(rng):
    x = images(rng, SIZE)
    model = converted(chain, x)
    kept = []

    def work():
        h = model[0](x)
        kept.append(h.block().remade is None)

    with kernels.recompute_in_backward():
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert kept == [False, True]


def test_threads_that_read_at_once_get_one_memory(lazy):
    _, make = lazy
    with torch.no_grad():
        h = make()
    found = []
    threads = [threading.Thread(target=lambda: found.append(h.memory())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({t.data_ptr() for t in found}) == 1


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bits", [LayerBits(4, 4), LayerBits(8, 8), LayerBits(None, None)])
@pytest.mark.parametrize("training", [False, True])
def test_the_order_in_memory_is_torchs(rng, order, bits, training):
    plain = nn.Conv2d(3, 6, 3, padding=1).to(memory_format=order).train(training)
    model = nn.Sequential(copy.deepcopy(plain), nn.Conv2d(6, 6, 1))
    quantize.convert_(model, {"0": bits, "1": LayerBits(4, 4)})
    x = torch.randn(2, 3, 5, 7, generator=rng).contiguous(memory_format=order)
    model.train()(x)
    h = model.train(training)[0](x)
    assert h.stride() == plain(x).stride() == (h + 0).stride()


def test_strides_are_those_of_the_values(rng):
    for size in [(2, 16, 1, 1), (1, 16, 5, 1), (2, 16, 1, 4), SIZE]:
        x = images(rng, size)
        h = converted(chain, x)[0](x)
        assert h.stride() == h.memory().stride() == (h.plain()).stride()


def test_what_is_not_finite_is_not_rounded_in_evaluation(rng):
    x = images(rng, SIZE)
    model = converted(chain, x).eval()
    for spoil in (torch.nan, torch.inf):
        spoiled = x.clone()
        spoiled[1, 3, 2, 2] = spoil
        y = model(spoiled) + 0
        assert y[1].isnan().any() and torch.equal(y[0], model(x)[0])
    for name, _ in model.named_parameters():
        broken = copy.deepcopy(model)
        broken.get_parameter(name).data.view(-1)[0] = torch.nan
        assert (broken(x) + 0).isnan().any(), name


def test_other_types_are_refused_in_one_sentence(rng):
    x = images(rng, SIZE)
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(TypeError, match="computes in float32, but its weights are"):
            converted(chain, x).to(dtype)(x.to(dtype))


@pytest.mark.parametrize("bits", [LayerBits(4, 4), LayerBits(8, 8), LayerBits(None, None)])
def test_what_are_no_images_is_refused_as_torch_does(rng, bits):
    model = nn.Sequential(nn.Conv2d(4, 3, 1), nn.Conv2d(3, 2, 1))
    quantize.convert_(model, {"0": bits, "1": LayerBits(4, 4)})
    for size in [(4, 5), (2, 2, 4, 5, 5)]:
        for training in (True, False):
            with pytest.raises(RuntimeError, match="Expected 3D"):
                model.train(training)(torch.randn(size, generator=rng))


def test_images_without_a_batch_and_tokens(rng):
    x = images(rng, SIZE)
    convolutions = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    for bits in (LayerBits(4, 4), LayerBits(8, 8), LayerBits(4, None), LayerBits(None, None)):
        net = copy.deepcopy(convolutions)
        quantize.convert_(net, {"0": bits, "2": LayerBits(4, 4)})
        net(x)
        assert torch.equal(net.eval()(x[0]), net(x[:1])[0])
    mlp = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    for bits in (LayerBits(4, 4), LayerBits(8, 8), LayerBits(4, None)):
        net = copy.deepcopy(mlp)
        quantize.convert_(net, dict.fromkeys(architectures.layers(net), bits))
        tokens = torch.randn(2, 5, 8, generator=rng)
        net(tokens)
        net.eval()
        assert torch.equal(net(tokens).flatten(0, 1), net(tokens.flatten(0, 1)))
        assert net(tokens[0, 0]).shape == (4,)


@pytest.mark.parametrize("bits", [LayerBits(4, 4), LayerBits(8, 8), LayerBits(None, None)])
def test_layers_are_called_by_keyword(rng, bits):
    for layer, size in ((nn.Conv2d(4, 3, 1), (2, 4, 5, 5)), (nn.Linear(4, 3), (2, 4))):
        model = nn.Sequential(layer, nn.ReLU(), nn.Linear(size[-1] if len(size) == 4 else 3, 2))
        quantize.convert_(model, {"0": bits, "2": LayerBits(4, 4)})
        x = torch.randn(size, generator=rng)
        model(x)
        model.eval()
        assert torch.equal(model[0](input=x) + 0, model[0](x) + 0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(1, 2), "same", "valid"])
def test_every_padding_computes_in_integers(rng, mode, padding):
    layer = nn.Conv2d(4, 6, (3, 2), padding=padding, padding_mode=mode, dilation=(1, 2), bias=False)
    model = nn.Sequential(layer)
    quantize.convert_(model, {"0": LayerBits(4, 4)})
    x = torch.rand(2, 4, 8, 9, generator=rng)
    model(x)
    h = model.eval()[0](x)
    assert isinstance(h, kernels.LazyTensor) and h.block().sums.dtype == torch.int16
    quantizer = model[0].input_quantizer
    values = kernels.fake_quant_per_tensor(x, quantizer.range, 16)
    expected = layer._conv_forward(values, model[0].quantized_weight(), None)
    torch.testing.assert_close(h + 0, expected, rtol=1e-5, atol=1e-5)


def test_a_scripted_module_and_a_strangers_tensor_read_values(lazy):
    _, make = lazy

    class Stranger(torch.Tensor):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(24), nn.ReLU()))
    with torch.no_grad():
        h = make()
        expected = F.relu(F.batch_norm(h + 0, None, None, training=True))
        torch.testing.assert_close(scripted(h), expected)
        ones = torch.ones(h.shape).as_subclass(Stranger)
        for total in (h + ones, ones + h, torch.add(h, ones)):
            assert isinstance(total, Stranger) and torch.equal(
                total.as_subclass(torch.Tensor), h + 1
            )


def test_what_stands_for_an_absent_operand_is_ordinary_wherever_it_was_first_asked_for():
    # No other test asks for that of this device.
    sums = torch.ones(1, 1, 1, 1, device="meta")
    block = Block(sums, sums.flatten(), None, channels_last=True)
    with torch.inference_mode(), FakeTensorMode():
        found = block.none()
    assert type(found) is torch.Tensor and not found.is_inference() and found.numel() == 0
    assert block.none() is found
