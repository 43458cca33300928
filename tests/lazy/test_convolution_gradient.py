"""The gradients of convolutions of codes are those of float64 over the values, in every form."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import micronet_kernels as kernels
from micronet.quantization import deterministic_layers  # noqa: F401, registers the formulas
from micronet_kernels import QuantizedWeights, Scheme
from micronet_kernels.lazy import convolution_gradient
from micronet_kernels.operands import Coding

# (images, channels, height, width), outputs, kernel, stride, padding, dilation, groups.
SHAPES = [
    ((2, 64, 5, 7), 19, 1, 1, [0, 0, 0, 0], 1, 1),  # many channels: products of matrices
    ((2, 7, 5, 7), 19, 1, 1, [0, 0, 0, 0], 1, 1),  # few channels, few pixels
    ((1, 6, 65, 64), 9, 1, 1, [0, 0, 0, 0], 1, 1),  # few channels, many pixels
    ((3, 33, 1, 1), 65, 1, 1, [0, 0, 0, 0], 1, 1),
    ((3, 33, 7, 7), 65, 1, 2, [0, 0, 0, 0], 1, 1),
    # Fewer channels than a vector holds, and pixels that no output reads.
    ((5, 12, 12, 16), 3, 1, 2, [0, 0, 0, 0], 1, 1),
    ((5, 8, 8, 7), 2, 1, 2, [0, 0, 0, 0], 1, 1),
    ((7, 12, 12, 19), 48, 1, 3, [0, 0, 0, 0], 1, 1),
    ((1, 3, 9, 9), 33, 3, 2, [0, 0, 1, 1], 1, 1),
    ((2, 8, 9, 9), 12, 3, 1, [2, 2, 2, 2], 2, 4),
    ((1, 70, 19, 8), 70, 5, 2, [1, 1, 2, 2], 1, 70),
    ((7, 33, 5, 20), 33, 3, 1, [2, 0, 2, 4], 2, 33),
]


def draw(rng, case):
    """The tensor, its range and mask, the weights and the call of a convolution of codes."""
    size, outputs, kernel, stride, padding, dilation, groups = case
    x = torch.randn(size, generator=rng).requires_grad_()
    w = torch.randn(outputs, size[1] // groups, kernel, kernel, generator=rng).requires_grad_()
    keep = torch.rand(w.shape, generator=rng) > 0.5
    numbers = (stride, stride), tuple(padding), (dilation, dilation), groups
    return x, w, keep, kernels.ConvCall(16, 16, *numbers)


def convolve(x, w, call):
    top, left, bottom, right = call.padding
    x = F.pad(x, [left, right, top, bottom])
    return F.conv2d(x, w, None, call.stride, 0, call.dilation, call.groups)


def exact(grad, x, w, call):
    """The gradients in float64, and the sums of the magnitudes of their products."""
    found = []
    for make in (torch.Tensor.double, lambda t: t.double().abs()):
        x_hat, w_hat = (make(t).detach().requires_grad_() for t in (x, w))
        y = convolve(x_hat, w_hat, call)
        found.append(torch.autograd.grad(y, (x_hat, w_hat), make(grad)))
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_gradients_are_those_of_float64(backend, rng, threads, case):
    x, w, keep, call = draw(rng, case)
    ends, mask = torch.tensor([-0.9, 1.1]), kernels.pack_bits(keep)
    images, weights = kernels.quantize_input(x, ends, 16), QuantizedWeights.of_ranges(w, mask)
    y = kernels.LazyTensor.convolve(images, w, weights, None, call)
    grad = torch.randn(y.shape, generator=rng)
    ours = torch.autograd.grad(y, (x, w), grad)
    values = kernels.fake_quant_per_tensor(x, ends, 16)
    w_hat = kernels.fake_quant_per_channel(w, 16, mask)
    passes = (x >= -0.9) & (x <= 1.1), keep
    # Each of so many additions errs by half an ulp of a sum that the magnitudes bound.
    counts = w[:, 0].numel(), grad[:, 0].numel() + 1
    for a, (true, most), passed, count in zip(
        ours, exact(grad, values, w_hat, call), passes, counts, strict=True
    ):
        assert (a[~passed] == 0).all()
        assert ((a.double() - true).abs() <= 1.01 * count * 2.0**-24 * most)[passed].all()


# Of groups torch's own count leaves out that each has weights of its own.
@pytest.mark.parametrize("case", [c for c in SHAPES if c[-1] in (1, c[1])], ids=str)
def test_either_gradient_counts_the_products_of_the_convolution(rng, case):
    x, w, keep, call = draw(rng, case)
    images = kernels.quantize_input(x, torch.tensor([-0.9, 1.1]), 16)
    weights = QuantizedWeights.of_ranges(w, kernels.pack_bits(keep))
    y = kernels.LazyTensor.convolve(images, w, weights, None, call)
    grad = torch.ones(y.shape)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(y, (x, w), grad)
    assert counter.get_total_flops() == 2 * 2 * y.numel() * w[0].numel()


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("case", SHAPES[:3] + SHAPES[-1:], ids=str)
def test_what_is_not_wanted_is_none(rng, wanted, case):
    x, w, _, call = draw(rng, case)
    values = convolution_gradient.StoredImages(
        torch.zeros((x.numel() + 1) // 2, dtype=torch.uint8),
        Coding(torch.tensor([1.0, 0.0]), 16, Scheme.LEARNED),
        x.shape,
    )
    with torch.no_grad():
        grad = torch.ones_like(convolve(x, w, call))
        found = convolution_gradient.convolution_backward(grad, values, w, call, wanted)
    assert [g is not None for g in found] == list(wanted)
    sizes = [t.shape for t, is_wanted in zip((x, w), wanted, strict=True) if is_wanted]
    assert [g.shape for g in found if g is not None] == sizes


def test_the_gradients_of_one_channel_of_one_pixel_keep_their_order_in_memory(rng):
    """Strides of a product of a single row or column could be taken for others."""
    case = ((1, 1, 1, 1), 3, 1, 1, [0, 0, 0, 0], 1, 1)
    x, w, keep, call = draw(rng, case)
    images = kernels.quantize_input(x, torch.tensor([-9.0, 9.0]), 16)
    weights = QuantizedWeights.of_ranges(w, kernels.pack_bits(keep))
    y = kernels.LazyTensor.convolve(images, w, weights, None, call)
    found = torch.autograd.grad(y, (x, w), torch.ones_like(y))
    assert [g.shape for g in found] == [x.shape, w.shape] and all(g.is_contiguous() for g in found)
