"""Convolutions of codes: every instruction set sums the integers that the specification defines."""

import pytest
import torch
import torch.nn.functional as F

import micronet_kernels as kernels
from micronet_kernels import QuantizedWeights, Scheme
from micronet_kernels.operands import CodesConvolution as Convolution

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
LEVELS = [(16, 16), (5, 128), (2, 2), (256, 256), (256, 16), (17, 129), (2, 256)]
AFFINE = Scheme.AFFINE, Scheme.AFFINE
SCHEMES = [(Scheme.AFFINE, Scheme.SYMMETRIC), (Scheme.LEARNED, Scheme.LEARNED)]


def arguments(rng, case, levels=(16, 16), dtype=torch.float32, schemes=AFFINE):
    size, out, kernel, stride, padding, dilation, groups = case
    range = torch.tensor([-1.0, 1.5]) * torch.rand(1, generator=rng)
    x = torch.randn(size, generator=rng).contiguous(memory_format=torch.channels_last)
    codes, _, _ = OP.quantize_per_tensor(x, range, levels[0], Scheme.AFFINE)
    w = torch.randn(out, size[1] // groups, kernel, kernel, generator=rng).to(dtype)
    mask = kernels.pack_bits(torch.rand(w.shape, generator=rng) > 0.5)
    if Scheme.LEARNED in schemes:
        steps = torch.rand(2, out, generator=rng) * 0.2 + 0.01
        steps[1] = -(levels[1] // 2)
    if schemes[0] == Scheme.LEARNED:
        range = torch.tensor([0.02, -float(levels[0] // 3)])
    learned = steps if schemes[1] == Scheme.LEARNED else torch.empty(0)
    numbers = (list(size), [stride] * 2, padding, [dilation] * 2, groups)
    weights = (w, mask, levels[1], int(schemes[1]), learned)
    return Convolution(codes, range, levels[0], int(schemes[0]), *weights, *numbers)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_integers_and_values_are_the_same_everywhere(on_all, rng, threads, case, levels):
    given = arguments(rng, case, levels)
    acc, ratio = on_all(lambda: OP.quant_conv2d(*given))
    values = on_all(lambda: OP.quant_conv2d_values(*given))
    assert acc.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values, acc.float() * ratio[:, None, None])


@pytest.mark.parametrize("levels", [(16, 16), (256, 256)], ids=str)
@pytest.mark.parametrize("outputs", [96, 160])
def test_sums_that_are_written_past_the_caches_are_the_same(on_all, rng, threads, levels, outputs):
    """More than 4 MiB of whole cache lines, by even and by odd numbers of sixteen outputs."""
    given = arguments(rng, ((13, 20, 41, 43), outputs, 1, 1, [0, 0, 0, 0], 1, 1), levels)
    acc, ratio = on_all(lambda: OP.quant_conv2d(*given))
    assert acc.numel() * acc.element_size() > 4 << 20
    assert acc.element_size() * outputs % 64 == 0
    assert ratio.shape == (outputs,)


@pytest.mark.parametrize("kept", [0.5, 0.05, 0.0])
@pytest.mark.parametrize("case", [*SHAPES[:6], ((1, 300, 5, 6), 70, 1, 1, [0, 0, 0, 0], 1, 1)])
def test_skipping_pruned_weights_changes_nothing(on_all, rng, threads, case, kept):
    from micronet_kernels import _C

    given = arguments(rng, case)
    kept_bits = torch.rand(given.w.shape, generator=rng) < kept
    given = given._replace(mask=kernels.pack_bits(kept_bits))
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


def integer_model(of):
    """The sums in 64-bit integers, product by product, from the definition of the codes."""
    (n, c, h, width), w, range = of.input_size, of.w, of.range
    pad, stride, dilation, groups = of.padding, of.stride, of.dilation, of.groups
    zero = torch.round((of.levels - 1) / (range[1] - range[0]) * range[0]).long()
    codes = of.codes
    if of.levels <= 16:
        codes = kernels.unpack_codes(codes, n * c * h * width, 16)
    image = codes.view(n, h, width, c).long() + zero
    weight_codes, _, weight_zero = kernels.quantize_per_channel(w, of.weight_levels, of.mask)
    top, left, bottom, right = pad
    image = F.pad(image.permute(0, 3, 1, 2), [left, right, top, bottom])
    columns = image.unfold(2, dilation[0] * (w.shape[2] - 1) + 1, stride[0])
    columns = columns.unfold(3, dilation[1] * (w.shape[3] - 1) + 1, stride[1])
    columns = columns[..., :: dilation[0], :: dilation[1]].unflatten(1, (groups, -1))
    integers = weight_codes.long() + weight_zero.long()[:, None, None, None]
    integers = integers.unflatten(0, (groups, -1))
    products = columns[:, :, None] * integers[None, :, :, :, None, None]
    return products.sum((3, 6, 7)).flatten(1, 2)


@pytest.mark.parametrize("levels", [(16, 16), (256, 256)], ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_integers_are_the_sums_of_products(backend, rng, case, levels):
    given = arguments(rng, case, levels)
    assert torch.equal(OP.quant_conv2d(*given)[0].long(), integer_model(given))


@pytest.mark.parametrize("levels", [(16, 16), (256, 255), (100, 256)], ids=str)
@pytest.mark.parametrize("schemes", SCHEMES, ids=str)
@pytest.mark.parametrize("case", [SHAPES[1], SHAPES[5], SHAPES[8]], ids=str)
def test_every_scheme_sums_the_same_integers_everywhere(on_all, rng, case, schemes, levels):
    given = arguments(rng, case, levels, schemes=schemes)
    acc, ratio = on_all(lambda: OP.quant_conv2d(*given))
    assert (acc != 0).any() and (ratio > 0).all()


@pytest.mark.parametrize("scheme", [Scheme.AFFINE, Scheme.SYMMETRIC], ids=str)
@pytest.mark.parametrize("ends", [(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)], ids=str)
@pytest.mark.parametrize("groups", [1, 4])
def test_integers_of_nine_bits_fit(on_all, ends, groups, scheme):
    """Weights of 256 levels reach from -255 to 255, beyond a signed byte, at their ends."""
    codes = torch.full((4 * 25,), 255, dtype=torch.uint8)
    w = torch.empty(4, 4 // groups, 3, 3).uniform_(*ends)
    w[0], w[1] = max(ends, key=abs), 0.0
    none = torch.empty(0, dtype=torch.uint8)
    given = Convolution(
        *(codes, torch.tensor([0.0, 1.0]), 256, 0, w, none, 256, int(scheme), torch.empty(0)),
        *([1, 4, 5, 5], [1, 1], [1] * 4, [1, 1], groups),
    )
    acc, _ = on_all(lambda: OP.quant_conv2d(*given))
    largest = 127 if scheme == Scheme.SYMMETRIC else 255
    assert acc.abs().max() == 255 * largest * given.w[0].numel()


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
    steps = torch.empty(0)
    given = (codes, range, 16, 0, w, none, 16, 0, steps, size, [1, 1], [0] * 4, [1, 1], number)
    acc, _ = on_all(lambda: OP.quant_conv2d(*given))
    assert acc.dtype == dtype and acc.abs().max() == 225 * channels
    assert groups == "depthwise" or (acc[:, 1] == -225 * channels).all()


def test_what_is_not_finite_shows_and_spoils_nothing_else(on_all, rng):
    given = arguments(rng, SHAPES[0])
    given = given._replace(mask=torch.full_like(given.mask, 255))
    clean = OP.quant_conv2d_values(*given)
    w = given.w.clone()
    w[3, 2] = torch.nan
    values = on_all(lambda: OP.quant_conv2d_values(*given._replace(w=w)))
    others = [channel for channel in torch.arange(16).tolist() if channel != 3]
    assert values[:, 3].isnan().all() and torch.equal(values[:, others], clean[:, others])
    broken = torch.tensor([torch.nan, 1.0])
    broken_input = given._replace(range=broken)
    assert on_all(lambda: OP.quant_conv2d_values(*broken_input)).isnan().all()


@pytest.mark.parametrize("hostile", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("case", [SHAPES[0], SHAPES[7], SHAPES[8]], ids=str)
def test_a_learned_step_hides_no_weight_that_is_not_finite(on_all, rng, case, hostile):
    given = arguments(rng, case, schemes=SCHEMES[1])
    channels = torch.arange(len(given.w))
    keep = torch.ones(given.w.shape, dtype=torch.bool)
    w = given.w.clone()
    w[3, -1, 0, 0] = w[5, 0, 0, 0] = hostile
    keep[5, 0, 0, 0] = False  # what is pruned is not read
    given = given._replace(mask=kernels.pack_bits(keep))
    clean = OP.quant_conv2d_values(*given)
    values = on_all(lambda: OP.quant_conv2d_values(*given._replace(w=w)))
    on_all(lambda: OP.quant_conv2d(*given._replace(w=w)))
    others = channels[(channels != 3) & (channels != 5)]
    assert values[:, 3].isnan().all() and torch.equal(values[:, others], clean[:, others])
    assert values[:, 5].isfinite().all()


@pytest.mark.parametrize("step", [0.0, -0.1, 1e-39, torch.inf, torch.nan])
def test_a_step_that_is_none_gives_no_number(on_all, rng, step):
    given = arguments(rng, SHAPES[0], schemes=SCHEMES[1])
    clean = OP.quant_conv2d_values(*given)
    steps = given.weight_steps.clone()
    steps[0, 3] = step
    values = on_all(lambda: OP.quant_conv2d_values(*given._replace(weight_steps=steps)))
    others = [channel for channel in range(16) if channel != 3]
    assert values[:, 3].isnan().all() and torch.equal(values[:, others], clean[:, others])
    of_input = given._replace(range=torch.tensor([step, given.range[1]]))
    assert on_all(lambda: OP.quant_conv2d_values(*of_input)).isnan().all()


def test_rejects(backend, rng):
    given = arguments(rng, SHAPES[0])

    def refused(kind, match, **changes):
        with pytest.raises(kind, match=match):
            OP.quant_conv2d(*given._replace(**changes))

    refused(ValueError, "levels is 257, but AFFINE has 2 to 256", levels=257)
    refused(ValueError, "levels is 1, but AFFINE has 2 to 256", weight_levels=1)
    refused(ValueError, "scheme is 5, which is none of", weight_scheme=5)
    refused(ValueError, "scheme is SYMMETRIC, but must be AFFINE or LEARNED", scheme=3)
    refused(ValueError, "weight_scheme is DISTILLER_AFFINE, but must be", weight_scheme=1)
    refused(ValueError, r"weight_steps has shape \[0\], but must have \[2, 16\]", weight_scheme=4)
    refused(ValueError, r"weight_steps has shape \[2, 16\]", weight_steps=torch.ones(2, 16))
    refused(ValueError, "codes has 280 bytes for 560 codes, which need 560", levels=17)
    refused(ValueError, r"stride is \[0, 1\], but must be 2 numbers of at least 1", stride=[0, 1])
    refused(
        ValueError, "do not fit 9 channels", input_size=[2, 9, 5, 7], codes=given[0].new_empty(315)
    )
    refused(ValueError, "codes has 3 bytes for 560 codes", codes=given[0][:3])
    refused(TypeError, r"range is torch\.float64", range=given.range.double())
    refused(TypeError, r"w is torch\.float64", w=given.w.double())


# Gradients --------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_convolution_of_the_values(backend, rng):
    x = torch.randn(3, 6, 9, 8, generator=rng).requires_grad_()
    w = torch.randn(8, 3, 3, 3, generator=rng).requires_grad_()
    keep = torch.rand(w.shape, generator=rng) > 0.5
    mask, range = kernels.pack_bits(keep), torch.tensor([-0.9, 1.1])
    call = kernels.ConvCall(16, 16, (2, 1), (0, 1, 1, 1), (1, 1), 2)
    codes, weights = kernels.quantize_input(x, range, 16), QuantizedWeights.of_ranges(w, mask)
    y = kernels.LazyTensor.convolve(codes, w, weights, None, call)
    grad = torch.randn(y.shape, generator=rng)
    ours = torch.autograd.grad(y, (x, w), grad)
    values = kernels.fake_quant_per_tensor(x, range, 16)
    w_hat = kernels.fake_quant_per_channel(w, 16, mask)
    padded = F.pad(values, [1, 1, 0, 1])
    theirs = torch.autograd.grad(F.conv2d(padded, w_hat, None, (2, 1), 0, 1, 2), (x, w), grad)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert (ours[1][~keep] == 0).all() and (ours[0][(x < -0.9) | (x > 1.1)] == 0).all()
