"""Activations: the range that follows the extremes, and the read that finds both at once."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import (
    BIG,
    DTYPES,
    HUGE,
    INF,
    LEVELS,
    NAN,
    SCHEMES,
    SIZES,
    draw,
    draw_ends,
    draw_words,
    fresh_state,
    layouts,
    levels_for,
    special,
    with_quantizers,
)

OP = torch.ops.micronet


def updated(x, decay=0.9):
    ema, ends, step = fresh_state()
    kernels.update_range_(x, ema, ends, step, decay)
    return ema, ends, step


def observed(x, ends, step=1, levels=16, scheme=0):
    return OP.fake_quant_per_tensor_observed(x, ends, torch.tensor([step]), levels, scheme)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99, 0.999])
def test_range_follows_numpy_step_by_step(backend, rng, decay):
    ema, ends, step = fresh_state()
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_of_every_size_and_place(on_all, rng, dtype):
    """The range, the observed extremes and those of the codes are the minimum and the maximum."""
    for size in [s for s in SIZES if s]:
        for place in {0, size // 2, size - 1}:
            for odd in (-50.0, 50.0, NAN, -INF):
                x = draw(rng, size, dtype=dtype)
                x[place] = odd
                expected = torch.stack(x.float().aminmax()) + 0.0
                found = on_all(lambda x=x: observed(x, torch.ones(2))[2])
                assert torch.equal(found, expected) or math.isnan(odd)
                found_too = on_all(lambda x=x: OP.quantize_per_tensor(x, torch.ones(2), 16, 0)[2])
                _, ends, _ = on_all(lambda x=x: updated(x))
                for answer in (found, found_too, ends):
                    assert answer.isnan().all() == math.isnan(odd)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    x, ends = draw(rng, BIG, dtype=dtype), draw_ends(rng)
    _, found_range, _ = on_all(lambda: updated(x, 0.99))
    assert torch.allclose(found_range, torch.stack(x.float().aminmax()))
    on_all(lambda: observed(x, ends))
    on_all(lambda: observed(x, ends, step=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_beyond_the_caches(on_all, rng, dtype):
    x = draw(rng, HUGE, dtype=dtype)
    on_all(lambda: observed(x, torch.tensor([-1.0, 1.5])))


def test_a_nan_is_seen_by_any_thread(backend, threads):
    for place in (0, BIG // 2, BIG - 1):
        x = torch.ones(BIG)
        x[place] = NAN
        assert updated(x)[1].isnan().all()
        assert observed(x, torch.ones(2))[2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_range_does_not_see_layout_or_sign_of_zero(on_all, rng, dtype):
    tensors = [x for x in layouts(rng, dtype).values() if x.numel()]
    tensors += [torch.tensor(zeros, dtype=dtype) for zeros in ([-0.0, 0.0], [0.0, -0.0])]
    for x in tensors:
        ema, ends, _ = on_all(lambda x=x: updated(x, 0.5))
        assert torch.equal(ema, 0.5 * torch.stack(x.float().aminmax()))
        assert torch.equal(ends, 2 * ema)
        assert not (torch.signbit(ema) & (ema == 0)).any()


def test_zero_extremes_have_one_sign(backend):
    for x in (torch.tensor([-0.0, -0.0]), torch.tensor([0.0, -0.0])):
        ema, ends, step = fresh_state()
        kernels.update_range_(x, ema.neg_(), ends, step, 0.5)
        assert not torch.signbit(torch.cat([ema, ends])).any()
        assert not torch.signbit(observed(x, ends)[2]).any()


def test_moving_by_extremes_is_updating_by_the_tensor(on_all, rng):
    def moved(by_tensor):
        state = fresh_state()
        for x in batches:
            if by_tensor:
                kernels.update_range_(x, *state, 0.99)
            else:
                kernels.move_range_(torch.stack(x.float().aminmax()), *state, 0.99)
        return state

    batches = [draw(rng, 65, dtype=dtype) for dtype in DTYPES for _ in range(7)]
    for ours, expected in zip(
        on_all(lambda: moved(False)), on_all(lambda: moved(True)), strict=True
    ):
        assert torch.equal(ours, expected)


def test_extremes_that_are_odd_move_the_range_alike(on_all, rng):
    def moved(extremes):
        state = fresh_state()
        for _ in range(3):
            kernels.move_range_(extremes, *state, 0.9)
        return state

    odd = special()
    pairs = list(odd[torch.randint(len(odd), (100, 2), generator=rng)])
    for extremes in [*pairs, *draw_words(rng, 100, 2)]:
        on_all(lambda extremes=extremes: moved(extremes))


@with_quantizers(LEVELS)
def test_observing_changes_no_value(on_all, rng, same, levels, scheme, dtype):
    levels = levels_for(scheme, levels)
    for size in [s for s in SIZES if s]:
        x, ends = draw(rng, size, dtype=dtype), draw_ends(rng)
        y, inside, found = on_all(lambda x=x, e=ends: observed(x, e, 1, levels, scheme))
        plain = OP.fake_quant_per_tensor(x, ends, levels, scheme)
        same(y, plain[0])
        same(inside, plain[1])
        assert torch.equal(found, torch.stack(x.float().aminmax()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_before_the_first_step_the_extremes_are_the_range(on_all, rng, same, scheme):
    for size in [s for s in SIZES if s]:
        x = draw(rng, size)
        y, inside, found = on_all(lambda x=x: observed(x, torch.full((2,), NAN), 0, 16, scheme))
        plain = OP.fake_quant_per_tensor(x, found, 16, scheme)
        same(y, plain[0])
        same(inside, plain[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_observing_odd_numbers(on_all, rng, dtype):
    for step in (0, 1, 7):
        on_all(lambda step=step: observed(special(dtype), torch.tensor([-1.0, 2.0]), step))
        for _ in range(5):
            x = draw_words(rng, 33, dtype=dtype)
            on_all(lambda x=x, step=step: observed(x, torch.tensor([-1.0, 2.0]), step))


def test_the_observed_gradient_is_that_of_the_range_in_use(backend, rng):
    x = draw(rng, 257).requires_grad_()
    grad = draw(rng, 257)
    for step in (0, 1):
        y, found = kernels.fake_quant_per_tensor_observed(
            x, torch.tensor([-0.5, 0.75]), torch.tensor([step]), 16
        )
        assert not found.requires_grad
        (ours,) = torch.autograd.grad(y, x, grad)
        kept = torch.ones_like(x, dtype=torch.bool) if step == 0 else (x >= -0.5) & (x <= 0.75)
        assert torch.equal(ours, torch.where(kept, grad, 0.0))


def test_not_finite_is_reported_by_the_range(backend):
    for odd in (NAN, INF, -INF):
        x = torch.tensor([1.0, odd, -1.0, 0.5])
        assert not updated(x)[1].isfinite().all()
        y, found = kernels.fake_quant_per_tensor_observed(
            x, torch.tensor([-1.0, 1.0]), torch.tensor([3]), 16
        )
        assert not found.isfinite().all()
        assert y.isnan().tolist() == [False, True, False, False]


def test_update_tells_autograd_that_the_state_changed(backend):
    for update, data in (
        (kernels.update_range_, torch.ones(3)),
        (kernels.move_range_, torch.ones(2)),
    ):
        tensors = fresh_state()
        before = [t._version for t in tensors]
        update(data, *tensors, 0.9)
        assert all(t._version > v for t, v in zip(tensors, before, strict=True))


def test_rejects(backend):
    ema, ends, step = fresh_state()
    with pytest.raises(ValueError, match=r"x has shape \[0\], and no elements have no range"):
        kernels.update_range_(torch.ones(0), ema, ends, step, 0.9)
    with pytest.raises(ValueError, match=r"x has shape \[0\], and no elements have no range"):
        kernels.fake_quant_per_tensor_observed(torch.ones(0), ends, step, 16)
    with pytest.raises(TypeError, match=r"step is torch.int32, but must be torch.int64"):
        kernels.update_range_(torch.ones(1), ema, ends, step.int(), 0.9)
    with pytest.raises(ValueError, match=r"step has shape \[2\], but must have \[1\]"):
        kernels.fake_quant_per_tensor_observed(torch.ones(1), ends, step.repeat(2), 16)
    with pytest.raises(ValueError, match=r"extremes has shape \[3\], but must have \[2\]"):
        kernels.move_range_(torch.ones(3), ema, ends, step, 0.9)
    with pytest.raises(ValueError, match=r"range has strides \[2\], but must be contiguous"):
        kernels.update_range_(torch.ones(1), ema, torch.zeros(4)[::2], step, 0.9)
    for decay in (-0.1, 1.0, 1.5, 0.99999999, NAN):
        for update, data in (
            (kernels.update_range_, torch.ones(1)),
            (kernels.move_range_, torch.ones(2)),
        ):
            with pytest.raises(ValueError, match=f"decay is {decay}, but must lie"):
                update(data, ema, ends, step, decay)
    assert step.item() == 0
