"""Activations: the moving range, rounding to it, and the gradient."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels

OP = torch.ops.micronet
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 997, 4095, 4096, 4097]
LEVELS = [2, 5, 16, 256]
SCHEMES = list(kernels.Scheme)
BIG = 300_007  # a prime of many blocks and pieces, so that threads share it
INF, NAN = math.inf, math.nan


def levels_for(scheme, levels):
    return max(levels, 3) if scheme == kernels.Scheme.DISTILLER_SYMMETRIC else levels


def draw(rng, *shape):
    return torch.randn(shape, generator=rng) * torch.rand((), generator=rng).mul(4).add(0.1)


def state():
    return torch.zeros(2), torch.zeros(2), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("levels", LEVELS)
def test_matches_reference_at_every_size(on_all, rng, levels, scheme):
    for size in SIZES:
        x = draw(rng, size)
        ends = torch.randn(2, generator=rng).sort().values
        y, inside = on_all(
            lambda x=x, ends=ends: OP.fake_quant_per_tensor(
                x, ends, levels_for(scheme, levels), scheme
            )
        )
        assert y.unique().numel() <= levels_for(scheme, levels)
        assert inside.numel() == -(-size // 8)
        on_all(lambda x=x, inside=inside: OP.fake_quant_per_tensor_backward(x, inside))


def test_matches_reference_on_threads(on_all, rng, threads):
    x, ends = draw(rng, BIG), torch.tensor([-1.5, 2.0])
    _, inside = on_all(lambda: OP.fake_quant_per_tensor(x, ends, 16, 0))
    on_all(lambda: OP.fake_quant_per_tensor_backward(x, inside))

    def updated():
        ema, ends, step = state()
        kernels.update_range_(x, ema, ends, step, 0.99)
        return ema, ends, step

    _, ends, _ = on_all(updated)
    assert torch.allclose(ends, torch.stack(x.aminmax()))


def layouts(rng):
    image = draw(rng, 3, 5, 7, 6)
    return {
        "contiguous": image,
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "transposed view": image.transpose(1, 3),
        "one pixel, channels_last": draw(rng, 3, 5, 1, 1).to(memory_format=torch.channels_last),
        "misaligned slice": draw(rng, 130)[1:],
        "strided slice": draw(rng, 130)[::3],
        "scalar": draw(rng),
    }


def test_layouts_give_the_values_of_the_contiguous_copy(backend, rng):
    ends = torch.tensor([-1.0, 1.5])
    for name, x in layouts(rng).items():
        x = x.detach().requires_grad_()
        copy = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        grad = torch.randn(x.shape, generator=rng)  # contiguous, whatever x is
        y, expected = (kernels.fake_quant_per_tensor(t, ends, 16) for t in (x, copy))
        assert torch.equal(y, expected), name
        y.backward(grad)
        expected.backward(grad)
        assert torch.equal(x.grad, copy.grad), name
        if name in ("contiguous", "channels_last"):
            assert y.stride() == x.stride(), name


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-39, 1.2e-38, 1.0, -1.0, 3e38, -3e38, INF, -INF, NAN]
RANGES = [
    (0.0, 0.0),
    (-0.0, -0.0),
    (1.0, 1.0),  # all positive: widened to [0, 1]
    (0.5, 2.0),
    (-2.0, -0.5),  # all negative: widened to [-2, 0]
    (-1e-45, 1e-45),
    (0.0, 1e-39),
    (-3e38, 3e38),  # wider than float32
    (-INF, INF),
    (0.0, INF),
    (NAN, 1.0),
    (-1.0, NAN),
    (NAN, NAN),
    (3.0, -3.0),
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ends", RANGES)
def test_special_values_in_special_ranges(on_all, ends, scheme):
    x = torch.tensor(SPECIAL * 3)
    y, inside = on_all(lambda: OP.fake_quant_per_tensor(x, torch.tensor(ends), 16, scheme))
    assert y[x.isnan()].isnan().all(), "NaN must never become a number"
    if any(math.isnan(end) for end in ends):
        assert y.isnan().all() and not inside.any()
    zeros = y[(x == 0) & ~y.isnan()]
    assert not zeros.any() and not torch.signbit(zeros).any(), "zero stays zero and has one sign"


def test_ties_and_their_neighbours_round_to_even(on_all):
    # With the range [0, 255] and 256 levels the inverse step is 1: x is its own code.
    ties = torch.arange(0, 256) - 0.5
    x = torch.cat([ties, ties.nextafter(torch.tensor(INF)), ties.nextafter(torch.tensor(-INF))])
    y, _ = on_all(lambda: OP.fake_quant_per_tensor(x, torch.tensor([0.0, 255.0]), 256, 0))
    assert np.array_equal(y.numpy(), np.clip(np.rint(x.numpy()), 0, 255))


@pytest.mark.parametrize("levels", LEVELS)
def test_agrees_with_numpy(backend, rng, levels):
    """The formula of the quantiser in NumPy, one float32 operation at a time."""
    x, n = draw(rng, 2003), np.float32(levels - 1)
    lo, hi = np.float32(-abs(draw(rng).item())), np.float32(abs(draw(rng).item()))
    scale = n / (hi - lo)
    zero = np.rint(scale * lo)
    codes = np.clip(np.rint(scale * x.numpy() - zero), 0, n)
    y = kernels.fake_quant_per_tensor(x, torch.tensor([lo, hi]), levels)
    assert np.array_equal(y.numpy(), (codes + zero) / scale)


@pytest.mark.parametrize("lo,hi", [(-1.3, 2.7), (0.4, 3.0), (-3.0, -0.4), (0.0, 0.0)])
def test_gradient_at_and_around_the_boundary(backend, lo, hi):
    ends = torch.tensor([lo, hi])
    wide = torch.tensor([min(lo, 0.0), max(hi, 0.0)])
    up, down = torch.full((2,), INF), torch.full((2,), -INF)
    x = torch.cat([wide, wide.nextafter(up), wide.nextafter(down), torch.tensor([-INF, INF, NAN])])
    expected = [1, 1, float(lo != hi), 0, 0, float(lo != hi), 0, 0, 0]
    x.requires_grad_()
    kernels.fake_quant_per_tensor(x, ends, 16).sum().backward()
    assert x.grad.tolist() == expected


def test_symmetric_gradient_reaches_both_ends(backend):
    x = torch.tensor([-2.0, -2.1, 2.0, 2.1, 0.0], requires_grad=True)
    scheme = kernels.Scheme.DISTILLER_SYMMETRIC
    kernels.fake_quant_per_tensor(x, torch.tensor([-0.5, 2.0]), 16, scheme).sum().backward()
    assert x.grad.tolist() == [1, 0, 1, 0, 1]


def test_a_dropped_gradient_is_zero_even_if_it_was_not_finite(backend):
    x = torch.tensor([5.0, 5.0, 0.5, 0.5], requires_grad=True)
    y = kernels.fake_quant_per_tensor(x, torch.tensor([0.0, 1.0]), 16)
    y.backward(torch.tensor([NAN, INF, INF, 2.0]))
    assert x.grad.tolist() == [0.0, 0.0, INF, 2.0]


def test_one_bit_per_element_is_saved_for_backward(backend, rng):
    saved = []
    x = draw(rng, 1001).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kernels.fake_quant_per_tensor(x, torch.tensor([-1.0, 1.0]), 16)
    assert sum(t.numel() * t.element_size() for t in saved) == 126


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99, 0.999])
def test_range_follows_numpy_step_by_step(backend, rng, decay):
    ema, ends, step = state()
    d = np.float32(decay)
    expected = np.zeros(2, dtype=np.float32)
    for t in range(1, 40):
        x = draw(rng, 65)
        kernels.update_range_(x, ema, ends, step, decay)
        power, base, left = 1.0, float(d), t
        while left:
            power, base, left = power * (base if left % 2 else 1.0), base * base, left // 2
        extremes = np.array([x.min(), x.max()], dtype=np.float32)
        expected = d * expected + (np.float32(1) - d) * extremes
        assert step.item() == t
        assert np.array_equal(ema.numpy(), expected)
        assert np.array_equal(ends.numpy(), expected / (np.float32(1) - np.float32(power)))


def test_range_of_every_size_and_place(on_all, rng):
    for size in [s for s in SIZES if s]:
        for place in {0, size // 2, size - 1}:
            for low in (-50.0, NAN, -INF):
                x = draw(rng, size)
                x[place] = low

                def updated(x=x):
                    ema, ends, step = state()
                    kernels.update_range_(x, ema, ends, step, 0.9)
                    return ema, ends

                _, ends = on_all(updated)
                if math.isnan(low):
                    assert ends.isnan().all()
                else:
                    assert ends[0].item() == pytest.approx(low, rel=1e-6)


def test_a_nan_is_seen_by_any_thread(backend, threads):
    for place in (0, BIG // 2, BIG - 1):
        x = torch.ones(BIG)
        x[place] = NAN
        ema, ends, step = state()
        kernels.update_range_(x, ema, ends, step, 0.9)
        assert ends.isnan().all()


def test_range_does_not_see_layout_or_sign_of_zero(on_all, rng):
    for x in [*layouts(rng).values(), torch.tensor([-0.0, 0.0]), torch.tensor([0.0, -0.0])]:

        def updated(x=x):
            ema, ends, step = state()
            kernels.update_range_(x, ema, ends, step, 0.5)
            return ema, ends

        ema, ends = on_all(updated)
        assert torch.equal(ema, 0.5 * torch.stack(x.aminmax())) and torch.equal(ends, 2 * ema)
        assert not (torch.signbit(ema) & (ema == 0)).any()


def test_zero_extremes_have_one_sign(backend):
    for x in (torch.tensor([-0.0, -0.0]), torch.tensor([0.0, -0.0])):
        ema, ends, step = state()
        kernels.update_range_(x, ema.neg_(), ends, step, 0.5)
        assert not torch.signbit(torch.cat([ema, ends])).any()


def test_update_tells_autograd_that_the_state_changed(backend):
    tensors = state()
    before = [t._version for t in tensors]
    kernels.update_range_(torch.ones(3), *tensors, 0.9)
    assert all(t._version > v for t, v in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    "levels,scheme,message",
    [
        (1, 0, "levels is 1, but AFFINE has 2 to 256"),
        (257, 1, "levels is 257, but DISTILLER_AFFINE has 2 to 256"),
        (2, 2, "levels is 2, but DISTILLER_SYMMETRIC has 3 to 256"),
        (16, 3, r"scheme is 3, which is none of \[0, 1, 2\]"),
    ],
)
def test_rejects_quantisers(backend, levels, scheme, message):
    with pytest.raises(ValueError, match=message):
        kernels.fake_quant_per_tensor(torch.ones(3), torch.ones(2), levels, scheme)


def test_rejects_tensors(backend):
    ema, ends, step = state()
    with pytest.raises(TypeError, match=r"x is torch.float64, but must be torch.float32"):
        kernels.fake_quant_per_tensor(torch.ones(3, dtype=torch.float64), ends, 16)
    with pytest.raises(ValueError, match=r"range has shape \[3\], but must have \[2\]"):
        kernels.fake_quant_per_tensor(torch.ones(3), torch.ones(3), 16)
    with pytest.raises(ValueError, match=r"x has strides \[2\], but must be contiguous"):
        OP.fake_quant_per_tensor(torch.ones(6)[::2], ends, 16, 0)
    with pytest.raises(ValueError, match="mask has 1 bytes for 9 elements, which need 2"):
        OP.fake_quant_per_tensor_backward(torch.ones(9), torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"x has shape \[0\], and no elements have no range"):
        kernels.update_range_(torch.ones(0), ema, ends, step, 0.9)
    with pytest.raises(TypeError, match=r"step is torch.int32, but must be torch.int64"):
        kernels.update_range_(torch.ones(1), ema, ends, step.int(), 0.9)
    for decay in (-0.1, 1.0, 1.5, 0.99999999, NAN):
        with pytest.raises(ValueError, match=f"decay is {decay}, but must lie"):
            kernels.update_range_(torch.ones(1), ema, ends, step, decay)
    assert step.item() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES)
def test_cuda_matches_reference(rng, same, scheme):
    for size in [*(s for s in SIZES if s), 1_000_003]:
        x, grad = draw(rng, size), draw(rng, size)
        x[size // 2] = INF
        ends = torch.tensor([-1.0, 2.0])
        expected_state, got_state = state(), [t.cuda() for t in state()]
        with kernels.use_backend("reference"):
            y, inside = OP.fake_quant_per_tensor(x, ends, 16, scheme)
            grad_x = OP.fake_quant_per_tensor_backward(grad, inside)
            kernels.update_range_(x, *expected_state, 0.99)
        with kernels.use_backend("native"):
            got, got_inside = OP.fake_quant_per_tensor(x.cuda(), ends.cuda(), 16, scheme)
            same(got.cpu(), y)
            same(got_inside.cpu(), inside)
            same(OP.fake_quant_per_tensor_backward(grad.cuda(), got_inside).cpu(), grad_x)
            kernels.update_range_(x.cuda(), *got_state, 0.99)
        for ours, expected in zip(got_state, expected_state, strict=True):
            same(ours.cpu(), expected)
