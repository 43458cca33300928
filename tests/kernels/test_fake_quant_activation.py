"""Activations: rounding to one range, and the gradient."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import (
    BIG,
    DTYPES,
    HALVES,
    HUGE,
    INF,
    LEVELS,
    NAN,
    RANGES,
    SCHEMES,
    SIZES,
    draw,
    draw_ends,
    draw_mask,
    draw_words,
    every_half,
    layouts,
    levels_for,
    special,
    with_quantizers,
)

OP = torch.ops.micronet


@with_quantizers(LEVELS)
def test_matches_reference_at_every_size(on_all, rng, levels, scheme, dtype):
    levels = levels_for(scheme, levels)
    for size in SIZES:
        x, ends = draw(rng, size, dtype=dtype), draw_ends(rng)
        y, inside = on_all(lambda x=x, ends=ends: OP.fake_quant_per_tensor(x, ends, levels, scheme))
        assert y.dtype == dtype and y.unique().numel() <= levels
        assert inside.numel() == -(-size // 8)
        on_all(lambda x=x, inside=inside: OP.fake_quant_per_tensor_backward(x, inside))


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    x, ends = draw(rng, BIG, dtype=dtype), draw_ends(rng)
    for levels in (16, 256):
        _, inside = on_all(lambda levels=levels: OP.fake_quant_per_tensor(x, ends, levels, 0))
    on_all(lambda: OP.fake_quant_per_tensor_backward(x, inside))


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_beyond_the_caches(on_all, rng, dtype):
    """Outputs this large are written past the caches, where the input is aligned and where not."""
    stored, ends = draw(rng, HUGE + 1, dtype=dtype), draw_ends(rng)
    for x in (stored[:HUGE], stored[1:]):
        _, inside = on_all(lambda x=x: OP.fake_quant_per_tensor(x, ends, 16, 0))
        on_all(lambda x=x, inside=inside: OP.fake_quant_per_tensor_backward(x, inside))


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_random_words(on_all, rng, dtype):
    for scheme in SCHEMES:
        for _ in range(5):
            x = draw_words(rng, 997, dtype=dtype)
            ends = draw_words(rng, 2).nan_to_num()
            for levels in (5, 16, 256):
                on_all(lambda x=x, e=ends, n=levels, s=scheme: OP.fake_quant_per_tensor(x, e, n, s))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_number_of_a_half_type(on_all, rng, scheme, dtype):
    x = every_half(dtype)
    for ends in (draw_ends(rng), torch.tensor([0.0, 6.0]), torch.tensor([-1e38, 1e38])):
        for levels in (5, 16, 256):
            args = (x, ends, levels, scheme)
            y, inside = on_all(lambda args=args: OP.fake_quant_per_tensor(*args))
            assert torch.equal(y.isnan(), ~x.isfinite())
            lo, hi = kernels_range(ends, scheme)
            expected = (x.double() >= lo) & (x.double() <= hi)
            assert torch.equal(kernels.unpack_bits(inside, x.numel()), expected)


def kernels_range(ends, scheme):
    """The range that the gradient passes, widened to hold 0."""
    lo, hi = ends.tolist()
    if scheme.is_symmetric:
        return -max(abs(lo), abs(hi)), max(abs(lo), abs(hi))
    return min(lo, 0.0), max(hi, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_are_widened_and_the_result_is_rounded_once(backend, rng, dtype):
    x, ends = draw(rng, 2003, dtype=dtype), draw_ends(rng)
    y = kernels.fake_quant_per_tensor(x, ends, 16)
    assert torch.equal(y, kernels.fake_quant_per_tensor(x.float(), ends, 16).to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_values_between_two_halves_round_to_the_even_one(on_all, dtype):
    """The largest value is the end of the range, here half-way between two numbers of the type."""
    numbers = every_half(dtype)
    numbers = numbers[numbers.isfinite() & (numbers > 0)].sort().values.double()
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    middles = middles[(middles > 1e-30) & (middles < 1e30)][::61]
    if dtype == torch.float16:
        middles = torch.cat([middles, torch.tensor([65519.996, 65520.0])])  # the last is infinite
    ties = 0
    for middle in middles:
        x, ends = (
            torch.full((17,), INF, dtype=dtype).nan_to_num(),
            torch.stack([middle * 0, middle]),
        )
        y, _ = on_all(lambda x=x, ends=ends: OP.fake_quant_per_tensor(x, ends, 16, 0))
        exact = OP.fake_quant_per_tensor(x.float(), ends, 16, 0)[0]
        assert torch.equal(y, exact.to(dtype))
        ties += int(exact[0] == middle)
    assert ties > middles.numel() / 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_give_the_bits_of_the_contiguous_copy(on_all, rng, same, dtype):
    ends = torch.tensor([-1.0, 1.5])
    for name, x in layouts(rng, dtype).items():
        grad = draw(rng, *x.shape, dtype=dtype)  # contiguous, whatever x is

        def both_ways(x, grad=grad):
            x = x.detach().requires_grad_()
            y = kernels.fake_quant_per_tensor(x, ends, 16)
            return y.detach(), torch.autograd.grad(y, x, grad)[0]

        answer = on_all(lambda x=x, run=both_ways: run(x))
        expected = on_all(lambda x=x, run=both_ways: run(x.contiguous()))
        for ours, theirs in zip(answer, expected, strict=True):
            same(ours.contiguous(), theirs)
        if name in ("contiguous", "channels_last", "transposed view"):
            assert answer[0].stride() == x.stride(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ends", RANGES)
def test_special_values_in_special_ranges(on_all, ends, scheme, dtype):
    x = special(dtype).repeat(3)
    for levels in (16, 256):
        y, inside = on_all(
            lambda n=levels: OP.fake_quant_per_tensor(x, torch.tensor(ends), n, scheme)
        )
        assert y[~x.isfinite()].isnan().all(), "NaN and infinity must never become numbers"
        if any(math.isnan(end) for end in ends):
            assert y.isnan().all() and not inside.any()
        zeros = y[(x == 0) & ~y.isnan()]
        assert not zeros.any() and not torch.signbit(zeros).any(), "zero has one sign"


def test_a_finite_number_too_large_to_scale_is_clamped(backend):
    x = torch.tensor([1e38, -1e38, torch.finfo().max, torch.finfo().min])
    y = kernels.fake_quant_per_tensor(x, torch.tensor([-0.25, 0.5]), 4)
    assert y.tolist() == [0.5, -0.25, 0.5, -0.25]


def test_denormals_are_kept(backend):
    # A step of 2^-127, half the smallest normal number; its inverse is still a float32.
    x = torch.arange(16.0) * 2.0**-127
    y = kernels.fake_quant_per_tensor(x, x[[0, 15]], 16)
    assert torch.equal(y, x) and y[1] > 0


def test_ties_and_their_neighbors_round_to_even(on_all):
    # With the range [0, 255] and 256 levels the inverse step is 1: x is its own code.
    ties = torch.arange(0, 256) - 0.5
    x = torch.cat([ties, ties.nextafter(torch.tensor(INF)), ties.nextafter(torch.tensor(-INF))])
    for n in (15, 31, 255):
        y, _ = on_all(lambda n=n: OP.fake_quant_per_tensor(x, torch.tensor([0.0, n]), n + 1, 0))
        assert np.array_equal(y.numpy(), np.clip(np.rint(x.numpy()), 0, n))


@pytest.mark.parametrize("levels", LEVELS)
def test_agrees_with_numpy(backend, rng, levels):
    """The formula of the quantizer in NumPy, one float32 operation at a time."""
    x, n = draw(rng, 2003), np.float32(levels - 1)
    lo, hi = np.float32(-abs(draw(rng).item())), np.float32(abs(draw(rng).item()))
    scale = n / (hi - lo)
    zero = np.rint(scale * lo)
    codes = np.clip(np.rint(scale * x.numpy() - zero), 0, n)
    y = kernels.fake_quant_per_tensor(x, torch.tensor([lo, hi]), levels)
    assert np.array_equal(y.numpy(), (codes + zero) / scale)


def around(points):
    """Each number, the float32 just above it and the one just below."""
    up = np.nextafter(points, np.float32(np.inf), dtype=np.float32)
    down = np.nextafter(points, np.float32(-np.inf), dtype=np.float32)
    return np.concatenate([points, up, down])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "ends", [(-1.3, 2.7), (0.4, 3.0), (-3.0, -0.4), (0.0, 0.0), (-1e-40, 1e30)]
)
def test_gradient_at_and_around_the_boundary(backend, rng, ends, scheme):
    ends = np.float32(ends)
    lo, hi = (np.float32(end) for end in kernels_range(torch.from_numpy(ends), scheme))
    around_ends = around(np.array([lo, hi, 0.0, *ends], dtype=np.float32))
    x = np.concatenate([around_ends, np.float32([INF, -INF, NAN])])
    expected = (lo <= x) & (x <= hi)
    x = torch.from_numpy(x).requires_grad_()
    grad = draw(rng, x.numel())
    y = kernels.fake_quant_per_tensor(x, torch.from_numpy(ends), 16, scheme)
    y.backward(grad)
    assert torch.equal(x.grad, torch.where(torch.from_numpy(expected), grad, 0.0))


def test_a_dropped_gradient_is_zero_even_if_it_was_not_finite(backend):
    x = torch.tensor([5.0, 5.0, 0.5, 0.5], requires_grad=True)
    y = kernels.fake_quant_per_tensor(x, torch.tensor([0.0, 1.0]), 16)
    y.backward(torch.tensor([NAN, INF, INF, 2.0]))
    assert x.grad.tolist() == [0.0, 0.0, INF, 2.0]


def test_an_expanded_gradient_is_laid_out_like_the_input(backend, rng):
    x = layouts(rng)["channels_last"].detach().requires_grad_()
    kernels.fake_quant_per_tensor(x, torch.tensor([-9e9, 9e9]), 16).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x)) and x.grad.stride() == x.stride()


@pytest.mark.parametrize("dtype", DTYPES)
def test_selection_ignores_the_unused_bits(on_all, rng, dtype):
    bits = draw_mask(rng, (13,))
    dirty = bits.clone()
    dirty[-1] |= 0b1110_0000
    grad = draw_words(rng, 13, dtype=dtype)
    assert torch.equal(
        on_all(lambda: OP.fake_quant_per_tensor_backward(grad, dirty).isnan()),
        on_all(lambda: OP.fake_quant_per_tensor_backward(grad, bits).isnan()),
    )
    on_all(lambda: OP.fake_quant_per_tensor_backward(grad, dirty))


@pytest.mark.parametrize(
    "levels,scheme,message",
    [
        (1, 0, "levels is 1, but AFFINE has 2 to 256"),
        (257, 1, "levels is 257, but DISTILLER_AFFINE has 2 to 256"),
        (2, 2, "levels is 2, but DISTILLER_SYMMETRIC has 3 to 256"),
        (2, 3, "levels is 2, but SYMMETRIC has 3 to 256"),
        (16, 4, "a learned step has no range"),
        (16, 5, r"scheme is 5, which is none of \[0, 1, 2, 3, 4\]"),
    ],
)
def test_rejects_quantizers(backend, levels, scheme, message):
    with pytest.raises(ValueError, match=message):
        kernels.fake_quant_per_tensor(torch.ones(3), torch.ones(2), levels, scheme)


def test_rejects_tensors(backend):
    ends = torch.zeros(2)
    with pytest.raises(TypeError, match=r"x is torch.float64, but must be float32, bfloat16 or"):
        kernels.fake_quant_per_tensor(torch.ones(3, dtype=torch.float64), ends, 16)
    with pytest.raises(TypeError, match=r"range is torch.bfloat16, but must be torch.float32"):
        kernels.fake_quant_per_tensor(torch.ones(3), ends.bfloat16(), 16)
    with pytest.raises(ValueError, match=r"range has shape \[3\], but must have \[2\]"):
        kernels.fake_quant_per_tensor(torch.ones(3), torch.ones(3), 16)
    with pytest.raises(ValueError, match=r"x has strides \[2\], but must have no gaps"):
        OP.fake_quant_per_tensor(torch.ones(6)[::2], ends, 16, 0)
    with pytest.raises(ValueError, match="mask has 1 bytes for 9 elements, which need 2"):
        OP.fake_quant_per_tensor_backward(torch.ones(9), torch.zeros(1, dtype=torch.uint8))
