"""The gradients of a depthwise convolution: the same bits everywhere, and those of float64."""

import pytest
import torch
import torch.nn.functional as F

import micronet_kernels as kernels
from samples import DTYPES

OP = torch.ops.micronet
NONE = torch.empty(0)
# (images, channels, height, width), kernel, stride, padding (top, left, bottom, right), dilation.
SHAPES = [
    ((2, 16, 6, 6), (3, 3), (1, 1), [1, 1, 1, 1], (1, 1)),
    ((1, 1, 1, 1), (1, 1), (1, 1), [0, 0, 0, 0], (1, 1)),
    ((3, 7, 5, 9), (3, 3), (1, 1), [1, 1, 1, 1], (1, 1)),
    ((1, 70, 19, 8), (5, 5), (2, 2), [1, 1, 2, 2], (1, 1)),
    ((2, 33, 5, 20), (3, 3), (2, 1), [2, 0, 2, 4], (2, 2)),
    ((2, 8, 7, 14), (7, 7), (1, 1), [3, 3, 3, 3], (1, 1)),
    ((1, 6, 9, 10), (2, 4), (1, 2), [0, 3, 1, 0], (1, 3)),
    ((2, 5, 8, 9), (1, 2), (3, 3), [0, 0, 0, 0], (1, 1)),  # pixels that no output reads
    ((2, 4, 2, 3), (5, 5), (1, 1), [2, 2, 2, 2], (1, 1)),  # a kernel larger than the images
    ((1, 3, 1, 2), (3, 3), (2, 2), [3, 4, 2, 5], (1, 1)),  # outputs that read no pixel
    ((1, 18, 4, 11), (3, 5), (1, 1), [1, 2, 1, 2], (1, 1)),
]


def draw(rng, case, levels=16, dtype=torch.float32):
    """The operands, x as codes with their table, and x as values."""
    size, kernel, stride, padding, dilation = case
    n, c, h, w = size
    flat = torch.randint(levels, (n * h * w * c,), generator=rng, dtype=torch.uint8)
    table = torch.randn(levels, generator=rng)
    values = table[flat.long()].view(n, h, w, c).permute(0, 3, 1, 2)
    codes = kernels.pack_codes(flat, 16) if levels <= 16 else flat
    weights = torch.randn(c, 1, *kernel, generator=rng)
    outputs = convolve(values, weights, case).shape
    grad = torch.randn(outputs, generator=rng).to(dtype)
    grad = grad.contiguous(memory_format=torch.channels_last)
    numbers = list(size), list(stride), padding, list(dilation)
    return (grad, codes, table, weights, *numbers), values


def convolve(x, w, case):
    _, _, stride, (top, left, bottom, right), dilation = case
    x = F.pad(x, [left, right, top, bottom])
    return F.conv2d(x, w, None, stride, 0, dilation, x.shape[1])


def exact(grad, values, w, case):
    """The gradients in float64, and the sums of the magnitudes of their products."""
    found = []
    for make in (torch.Tensor.double, lambda t: t.double().abs()):
        x, weights = (make(t).detach().requires_grad_() for t in (values, w))
        found.append(torch.autograd.grad(convolve(x, weights, case), (x, weights), make(grad)))
    return zip(*found, strict=True)


@pytest.mark.parametrize("levels", [16, 5, 17, 256])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_the_sums_have_one_order(on_all, rng, threads, case, levels):
    given, values = draw(rng, case, levels)
    grad_x, grad_w = on_all(lambda: OP.depthwise_gradient(*given, True, True))
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    from_values = (given[0], values, NONE, *given[3:])
    others = on_all(lambda: OP.depthwise_gradient(*from_values, True, True))
    assert torch.equal(others[0], grad_x) and torch.equal(others[1], grad_w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SHAPES[2:5], ids=str)
def test_gradients_of_every_type(on_all, rng, case, dtype):
    given, _ = draw(rng, case, dtype=dtype)
    grad_x, grad_w = on_all(lambda: OP.depthwise_gradient(*given, True, True))
    wide, grad_w_of_wide = OP.depthwise_gradient(given[0].float(), *given[1:], True, True)
    assert torch.equal(grad_x, wide.to(dtype)) and torch.equal(grad_w, grad_w_of_wide)


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_gradients_are_those_of_float64(backend, rng, case):
    given, values = draw(rng, case)
    found = OP.depthwise_gradient(*given, True, True)
    # Each of `count` additions errs by half an ulp of a sum that the magnitudes bound.
    _, _, height, width = given[0].shape
    counts = given[3][0].numel(), height + width + 1
    for ours, (true, most), count in zip(
        found, exact(given[0], values, given[3], case), counts, strict=True
    ):
        assert ((ours.double() - true).abs() <= 1.01 * count * 2.0**-24 * most).all()


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_what_is_not_wanted_is_empty(on_all, rng, wanted):
    given, _ = draw(rng, SHAPES[3])
    both = OP.depthwise_gradient(*given, True, True)
    found = on_all(lambda: OP.depthwise_gradient(*given, *wanted))
    for ours, whole, is_wanted in zip(found, both, wanted, strict=True):
        assert torch.equal(ours, whole) if is_wanted else ours.shape == (0,)


def test_large_images_go_past_the_cache_with_the_bits_of_small_ones(native, rng, threads):
    case = ((2, 96, 105, 110), (3, 3), (1, 1), [1, 1, 1, 1], (1, 1))
    given, values = draw(rng, case)
    grad_x, grad_w = OP.depthwise_gradient(*given, True, True)
    half = given[0].bfloat16()
    of_half, _ = OP.depthwise_gradient(half, *given[1:], True, False)
    for some in (slice(0, 16), slice(80, 96)):
        grad, x, halves = (
            t[:, some].contiguous(memory_format=torch.channels_last)
            for t in (given[0], values, half)
        )
        rest = x, NONE, given[3][some].contiguous(), [2, 16, 105, 110], *given[5:]
        few_x, few_w = OP.depthwise_gradient(grad, *rest, True, True)
        assert torch.equal(grad_x[:, some], few_x) and torch.equal(grad_w[some], few_w)
        assert torch.equal(of_half[:, some], OP.depthwise_gradient(halves, *rest, True, False)[0])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["grad", "x", "w"])
def test_what_is_not_finite_shows_wherever_torch_shows_it(on_all, rng, where, value):
    case = SHAPES[3]
    given, values = draw(rng, case)
    grad, w, values = given[0].clone(), given[3].clone(), values.clone()
    images = grad if where == "grad" else values
    (w[11, 0] if where == "w" else images[0, 11])[1, 1] = value
    found = on_all(lambda: OP.depthwise_gradient(grad, values, NONE, w, *given[4:], True, True))
    for ours, (true, _) in zip(found, exact(grad, values, w, case), strict=True):
        assert not ours[~true.isfinite()].isfinite().any()
    others = torch.arange(70) != 11
    assert found[0][:, others].isfinite().all() and found[1][others].isfinite().all()


def test_rejects(backend, rng):
    given, values = draw(rng, SHAPES[2])
    names = ["grad", "x", "table", "w", "input_size", "stride", "padding", "dilation"]

    def refused(kind, match, **changes):
        changed = [changes.get(n, g) for n, g in zip(names, given, strict=True)]
        with pytest.raises(kind, match=match):
            OP.depthwise_gradient(*changed, True, True)

    refused(TypeError, r"grad is torch\.float64", grad=given[0].double())
    refused(
        ValueError,
        "grad has shape",
        grad=given[0][:, :, :2].contiguous(memory_format=torch.channels_last),
    )
    refused(ValueError, "must be channels last", grad=given[0].contiguous())
    refused(
        ValueError, r"w has shape \[7, 3, 3\], but must have \[7, 1, KH, KW\]", w=given[3][:, 0]
    )
    refused(ValueError, "codes has 3 bytes", x=given[1][:3])
    refused(ValueError, "levels is 257", table=torch.zeros(257))
    refused(TypeError, r"x is torch\.float64", x=values.double())
    refused(ValueError, r"stride is \[0, 1\], but must be 2 numbers", stride=[0, 1])
    refused(ValueError, "smaller than the kernel", padding=[0, 0, 0, 0], dilation=[3, 3])
