"""Convolutions of codes: every instruction set sums the integers that the specification defines."""

import pytest
import torch
import torch.nn.functional as F

import micronet_kernels as kernels

OP = torch.ops.micronet
# (images, channels, height, width), outputs, kernel, stride, padding, dilation, groups.
SHAPES = [
    ((2, 8, 5, 7), 16, 1, 1, [0, 0, 0, 0], 1, 1),
    ((2, 7, 5, 7), 19, 1, 1, [0, 0, 0, 0], 1, 1),
    ((3, 33, 7, 7), 65, 1, 2, [0, 0, 0, 0], 1, 1),
    ((1, 130, 10, 11), 100, 1, 1, [0, 0, 0, 0], 1, 1),
    ((1, 3, 9, 9), 33, 3, 2, [0, 0, 1, 1], 1, 1),
    ((2, 8, 9, 9), 12, 3, 1, [2, 2, 2, 2], 2, 4),
    ((2, 8, 9, 9), 16, 3, 1, [1, 1, 1, 1], 1, 8),
    ((2, 16, 6, 6), 16, 3, 1, [1, 1, 1, 1], 1, 16),
    ((1, 70, 19, 8), 70, 5, 2, [1, 1, 2, 2], 1, 70),
    ((7, 33, 5, 20), 33, 3, 1, [2, 0, 2, 4], 2, 33),
]
LEVELS = [(16, 16), (5, 128), (2, 2)]


def arguments(rng, case, levels=(16, 16), dtype=torch.float32):
    size, out, kernel, stride, padding, dilation, groups = case
    range = torch.tensor([-1.0, 1.5]) * torch.rand(1, generator=rng)
    x = torch.randn(size, generator=rng).contiguous(memory_format=torch.channels_last)
    codes, _, _ = OP.quantize_per_tensor(x, range, levels[0], 0)
    w = torch.randn(out, size[1] // groups, kernel, kernel, generator=rng).to(dtype)
    mask = kernels.pack_bits(torch.rand(w.shape, generator=rng) > 0.5)
    numbers = ([stride] * 2, padding, [dilation] * 2, groups)
    return codes, range, levels[0], w, mask, levels[1], list(size), *numbers


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_integers_and_values_are_the_same_everywhere(on_all, rng, threads, case, levels):
    given = arguments(rng, case, levels)
    acc, ratio = on_all(lambda: OP.quant_conv2d(*given))
    values = on_all(lambda: OP.quant_conv2d_values(*given))
    assert acc.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values, acc.float() * ratio[:, None, None])


@pytest.mark.parametrize("kept", [0.5, 0.05, 0.0])
@pytest.mark.parametrize("case", [*SHAPES[:6], ((1, 300, 5, 6), 70, 1, 1, [0, 0, 0, 0], 1, 1)])
def test_skipping_pruned_weights_changes_nothing(on_all, rng, threads, case, kept):
    from micronet_kernels import _C

    given = list(arguments(rng, case))
    given[4] = kernels.pack_bits(torch.rand(given[3].shape, generator=rng) < kept)
    answers = []
    try:
        for skipping in (None, False, True):
            _C.set_skipping(skipping)
            answers.append(on_all(lambda: OP.quant_conv2d(*given)))
    finally:
        _C.set_skipping(None)
    for acc, ratio in answers[1:]:
        assert torch.equal(acc, answers[0][0])
        torch.testing.assert_close(ratio, answers[0][1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_other_types(on_all, rng, dtype):
    given = arguments(rng, SHAPES[1], dtype=dtype)
    on_all(lambda: OP.quant_conv2d(*given))


def integer_model(
    codes, range, levels, w, mask, weight_levels, size, stride, pad, dilation, groups
):
    """The sums in 64-bit integers, product by product, from the definition of the codes."""
    n, c, h, width = size
    zero = torch.round((levels - 1) / (range[1] - range[0]) * range[0]).long()
    image = kernels.unpack_codes(codes, n * c * h * width, 16).view(n, h, width, c).long() + zero
    weight_codes, _, weight_zero = kernels.quantize_per_channel(w, weight_levels, mask)
    top, left, bottom, right = pad
    image = F.pad(image.permute(0, 3, 1, 2), [left, right, top, bottom])
    columns = image.unfold(2, dilation[0] * (w.shape[2] - 1) + 1, stride[0])
    columns = columns.unfold(3, dilation[1] * (w.shape[3] - 1) + 1, stride[1])
    columns = columns[..., :: dilation[0], :: dilation[1]].unflatten(1, (groups, -1))
    integers = weight_codes.long() + weight_zero.long()[:, None, None, None]
    integers = integers.unflatten(0, (groups, -1))
    products = columns[:, :, None] * integers[None, :, :, :, None, None]
    return products.sum((3, 6, 7)).flatten(1, 2)


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_integers_are_the_sums_of_products(backend, rng, case):
    given = arguments(rng, case)
    assert torch.equal(OP.quant_conv2d(*given)[0].long(), integer_model(*given))


@pytest.mark.parametrize(("channels", "dtype"), [(145, torch.int16), (146, torch.int32)])
@pytest.mark.parametrize("groups", ["dense", "depthwise"])
def test_the_largest_sums_fit_their_type(on_all, channels, dtype, groups):
    """15 * 15 * 145 is the last below 2^15; all codes and all weights are at their ends."""
    range = torch.tensor([0.0, 1.0])
    if groups == "dense":
        size, w = [1, channels, 2, 2], torch.ones(3, channels, 1, 1)
        w[1] = -1.0
    else:
        size, w = [1, 2, 1, channels], torch.ones(2, 1, 1, channels)
    codes = torch.full(((torch.Size(size).numel() + 1) // 2,), 0xFF, dtype=torch.uint8)
    none = torch.empty(0, dtype=torch.uint8)
    number = 1 if groups == "dense" else 2
    given = (codes, range, 16, w, none, 16, size, [1, 1], [0] * 4, [1, 1], number)
    acc, _ = on_all(lambda: OP.quant_conv2d(*given))
    assert acc.dtype == dtype and acc.abs().max() == 225 * channels
    assert groups == "depthwise" or (acc[:, 1] == -225 * channels).all()


def test_what_is_not_finite_shows_and_spoils_nothing_else(on_all, rng):
    codes, range, levels, w, *rest = arguments(rng, SHAPES[0])
    clean = OP.quant_conv2d_values(codes, range, levels, w, *rest)
    rest[0] = torch.full_like(rest[0], 255)
    clean = OP.quant_conv2d_values(codes, range, levels, w, *rest)
    w = w.clone()
    w[3, 2] = torch.nan
    values = on_all(lambda: OP.quant_conv2d_values(codes, range, levels, w, *rest))
    others = [channel for channel in torch.arange(16).tolist() if channel != 3]
    assert values[:, 3].isnan().all() and torch.equal(values[:, others], clean[:, others])
    broken = torch.tensor([torch.nan, 1.0])
    assert on_all(lambda: OP.quant_conv2d_values(codes, broken, levels, w, *rest)).isnan().all()


def test_rejects(backend, rng):
    given = list(arguments(rng, SHAPES[0]))

    def refused(kind, match, **changes):
        names = ["codes", "range", "levels", "w", "mask", "weight_levels", "size", "stride"]
        changed = [changes.get(n, g) for n, g in zip(names, given, strict=False)] + given[8:]
        with pytest.raises(kind, match=match):
            OP.quant_conv2d(*changed)

    refused(ValueError, "levels is 17, but must be at most 16", levels=17)
    refused(ValueError, "weight_levels is 129, but must be at most 128", weight_levels=129)
    refused(ValueError, r"stride is \[0, 1\], but must be 2 numbers of at least 1", stride=[0, 1])
    refused(ValueError, "do not fit 9 channels", size=[2, 9, 5, 7], codes=given[0].new_empty(315))
    refused(ValueError, "packed has 3 bytes for 560 codes", codes=given[0][:3])
    refused(TypeError, r"range is torch\.float64", range=given[1].double())
    refused(TypeError, r"w is torch\.float64", w=given[3].double())


# Gradients --------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_convolution_of_the_values(backend, rng):
    x = torch.randn(3, 6, 9, 8, generator=rng).requires_grad_()
    w = torch.randn(8, 3, 3, 3, generator=rng).requires_grad_()
    keep = torch.rand(w.shape, generator=rng) > 0.5
    mask, range = kernels.pack_bits(keep), torch.tensor([-0.9, 1.1])
    call = kernels.ConvCall(16, 16, (2, 1), (0, 1, 1, 1), (1, 1), 2)
    y = kernels.LazyTensor.convolve(kernels.quantize_input(x, range, 16), w, mask, None, call)
    grad = torch.randn(y.shape, generator=rng)
    ours = torch.autograd.grad(y, (x, w), grad)
    values = kernels.fake_quant_per_tensor(x, range, 16)
    w_hat = kernels.fake_quant_per_channel(w, 16, mask)
    padded = F.pad(values, [1, 1, 0, 1])
    theirs = torch.autograd.grad(F.conv2d(padded, w_hat, None, (2, 1), 0, 1, 2), (x, w), grad)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert (ours[1][~keep] == 0).all() and (ours[0][(x < -0.9) | (x > 1.1)] == 0).all()
