"""Learned steps: the values, and the gradients to the input and to the step."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import (
    BIG,
    DTYPES,
    INF,
    LEVELS,
    NAN,
    NOTHING,
    SIZES,
    draw,
    draw_mask,
    draw_words,
    layouts,
    special,
)

OP = torch.ops.micronet
SHAPES = [(1, 1), (7,), (11, 9), (5, 17), (48, 1, 5, 5), (3, 1280), (3, 1283), (2, 5003)]
# Around one block of the ordered sum, and beyond one block of block sums.
LONG = [4095, 4096, 4097, 8192, 8193, 12_289, BIG]
# Roundings on the way of one term into the sum of a tensor below 4096 blocks, at most: two to
# make it, 16 + 8 in its block, 16 + 8 among the blocks, one by the gradient's scale.
ROUNDINGS = 2 + 24 + 24 + 1


def draw_steps(rng, count, levels):
    """Steps, and whole zero points between all codes negative and none."""
    step = torch.rand(count, generator=rng) * 0.3 + 0.05
    return step, 1.0 - torch.randint(1, levels + 1, (count,), generator=rng)


def both_gradients(grad, x, mask, step, zero, levels, scale=1.0):
    return OP.fake_quant_learned_step_backward(grad, x, mask, step, zero, levels, scale)


def check_all(on_all, rng, x, mask, step, zero, levels, scale=0.01):
    y = on_all(lambda: OP.fake_quant_learned_step(x, mask, step, zero, levels, scale))
    grad = draw(rng, *x.shape, dtype=x.dtype)
    on_all(lambda: both_gradients(grad, x, mask, step, zero, levels, scale))
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_one_step_matches_reference_at_every_size(on_all, rng, levels, dtype):
    for size in SIZES:
        x = draw(rng, size, dtype=dtype)
        for mask in (NOTHING, draw_mask(rng, (size,))):
            y = check_all(on_all, rng, x, mask, *draw_steps(rng, 1, levels), levels)
            assert y.dtype == dtype and y.unique().numel() <= levels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_steps_of_channels_match_reference_at_every_shape(on_all, rng, levels, dtype):
    for shape in SHAPES:
        w = draw(rng, *shape, dtype=dtype)
        for mask in (NOTHING, draw_mask(rng, shape)):
            check_all(on_all, rng, w, mask, *draw_steps(rng, shape[0], levels), levels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    for size in LONG:
        x = draw(rng, size, dtype=dtype)
        mask = draw_mask(rng, (size,)) if size % 2 else NOTHING
        check_all(on_all, rng, x, mask, *draw_steps(rng, 1, 16), 16)
    for shape in ((3, 30_011), (3671, 9)):
        x = draw(rng, *shape, dtype=dtype)
        check_all(on_all, rng, x, draw_mask(rng, shape), *draw_steps(rng, shape[0], 16), 16)


@pytest.mark.slow
def test_more_blocks_than_a_block_holds(on_all, rng):
    # A prime number of draws again and again: no two blocks have the same numbers.
    x = draw(rng, 524_287).repeat(33)[: 4096 * 4096 + 4097]
    check_all(on_all, rng, x, NOTHING, *draw_steps(rng, 1, 16), 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_random_words(on_all, rng, dtype):
    for levels in (5, 16, 256):
        x, grad = (draw_words(rng, 65, 9, dtype=dtype) for _ in range(2))
        step, zero = draw_steps(rng, 65, levels)
        for mask in (NOTHING, draw_mask(rng, x.shape)):
            args = (mask, step, zero, levels)
            on_all(lambda x=x, args=args: OP.fake_quant_learned_step(x, *args, 1.0))
            on_all(lambda x=x, grad=grad, args=args: both_gradients(grad, x, *args))


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_steps_and_odd_inputs(on_all, rng, dtype):
    x = special(dtype)
    grad = draw(rng, x.numel(), dtype=dtype)
    for step in special():
        for zero in (-8.0, 0.0):
            args = (NOTHING, step[None], torch.tensor([zero]), 16)
            on_all(lambda args=args: OP.fake_quant_learned_step(x, *args, 1.0))
            on_all(lambda args=args: both_gradients(grad, x, *args))


@pytest.mark.parametrize("step", [0.0, -0.0, -0.25, 2.0**-128, 1e-45, INF, -INF, NAN])
def test_a_step_that_is_none_gives_no_number(on_all, rng, step):
    """Neither values nor the gradient to the step; the other channel has its own."""
    for size in (1, 9, 17, 4097):
        x, grad = draw(rng, 2, size), draw(rng, 2, size)
        steps, zero = torch.tensor([step, 0.25]), torch.tensor([-8.0, -8.0])
        args = (NOTHING, steps, zero, 16)
        y = on_all(lambda x=x, args=args: OP.fake_quant_learned_step(x, *args, 1.0))
        assert y[0].isnan().all() and torch.equal(y[1], (x[1] * 4).round().clamp(-8, 7) / 4)
        both = on_all(lambda x=x, grad=grad, args=args: both_gradients(grad, x, *args))
        assert not both[0][0].any() and both[1].isnan().tolist() == [True, False]


@pytest.mark.parametrize("step", [2.0**-127, 2.0**126])
def test_the_least_and_the_largest_step(on_all, step):
    x = torch.tensor([0.0, step, -step])
    args = (NOTHING, torch.tensor([step]), torch.tensor([-8.0]), 16)
    y = on_all(lambda: OP.fake_quant_learned_step(x, *args, 1.0))
    assert y[:2].tolist() == [0.0, step]


def test_values_are_whole_multiples_of_the_step(backend, rng):
    x, step = draw(rng, 997), torch.tensor([0.25])
    y = kernels.fake_quant_learned_step(x, step, torch.tensor([-8.0]), 16)
    assert torch.equal(y, (x * 4).round().clamp(-8, 7) / 4)


def test_not_finite_is_not_a_number(backend):
    x = torch.tensor([NAN, INF, -INF, 1.0], requires_grad=True)
    step = torch.tensor([0.5], requires_grad=True)
    y = kernels.fake_quant_learned_step(x, step, torch.tensor([-8.0]), 16)
    assert y.isnan().tolist() == [True, True, True, False]
    y.sum().backward()
    assert x.grad.tolist() == [0, 0, 0, 1] and step.grad.isnan().all()


def closed_form(x, keep, step, zero, levels, grad):
    """LSQ in float64 of one channel: gradients to x and to the step, and the terms' magnitude.

    Which side of a tie or of an end x lies on is decided by the float32 quotient, as in training.
    """
    inverse = np.float32(1) / np.float32(step)
    t = inverse * np.where(keep, x, 0).astype(np.float32)
    assert t.dtype == np.float32
    i = np.clip(np.rint(t - np.float32(zero)), 0, levels - 1) + np.float64(zero)
    inside = (t > zero) & (t < zero + levels - 1)
    terms = grad.astype(np.float64) * np.where(inside, i - t.astype(np.float64), i)
    return grad * (inside & keep), math.fsum(terms), math.fsum(np.abs(terms))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_gradients_are_those_of_the_closed_form(backend, rng, levels, dtype):
    for shape in [(3, 9), (2, 997), (2, 5003)]:
        x, grad = (draw(rng, *shape, dtype=dtype) for _ in range(2))
        keep = torch.rand(shape, generator=rng) < 0.6
        step, zero = draw_steps(rng, shape[0], levels)
        scale = 0.125  # a power of two: exact
        parameters = [x.requires_grad_(), step.requires_grad_()]
        y = kernels.fake_quant_learned_step(x, step, zero, levels, kernels.pack_bits(keep), scale)
        grad_x, grad_step = torch.autograd.grad(y, parameters, grad)
        for c in range(shape[0]):
            rows = (t[c].detach().float().numpy() for t in (x, keep, grad))
            row, kept, upstream = rows
            wanted_x, wanted, magnitude = closed_form(
                row, kept > 0, step[c].item(), zero[c].item(), levels, upstream
            )
            assert np.array_equal(grad_x[c].float().numpy(), wanted_x)
            error = abs(grad_step[c].item() - scale * wanted)
            assert error <= ROUNDINGS * 2**-24 * scale * magnitude


def test_gradients_at_and_around_the_ends(on_all, rng):
    """With the step 1 the quotient is x: 0 at and beyond an end, 1 just inside."""
    ends = np.float32([-8, 7])
    x = np.concatenate(
        [ends, np.nextafter(ends, np.float32(-INF)), np.nextafter(ends, np.float32(INF))]
    )
    inside = torch.from_numpy((x > -8) & (x < 7))
    assert inside.tolist() == [False, False, False, True, True, False]
    x = torch.from_numpy(x)
    grad = draw(rng, 6)
    args = (torch.tensor([1.0]), torch.tensor([-8.0]), 16)
    grad_x, grad_step = on_all(lambda: both_gradients(grad, x, NOTHING, *args))
    assert torch.equal(grad_x, torch.where(inside, grad, 0.0))
    i = torch.tensor([-8.0, 7.0] * 3)
    terms = grad.double() * torch.where(inside, i.double() - x.double(), i.double())
    error = (grad_step.double() - terms.sum()).abs()
    assert error <= ROUNDINGS * 2**-24 * terms.abs().sum()


def test_a_pruned_element_counts_as_zero_whatever_it_was(backend):
    x = torch.tensor([[5.0, 0.3, NAN]], requires_grad=True)
    mask = kernels.pack_bits(torch.tensor([False, True, False]))
    step = torch.tensor([0.25], requires_grad=True)
    y = kernels.fake_quant_learned_step(x, step, torch.tensor([-8.0]), 16, mask)
    assert y.tolist() == [[0.0, 0.25, 0.0]]
    y.sum().backward()
    assert x.grad.tolist() == [[0, 1, 0]]
    assert step.grad.item() == 1 - np.float32(4) * np.float32(0.3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_give_the_values_of_the_contiguous_copy(on_all, rng, same, dtype):
    for x in layouts(rng, dtype).values():
        grad = draw(rng, *x.shape, dtype=dtype)
        step, zero = draw_steps(rng, 1, 16)

        def both_ways(x, grad=grad, step=step, zero=zero):
            x = x.detach().requires_grad_()
            y = kernels.fake_quant_learned_step(x, step, zero, 16)
            return y.detach(), torch.autograd.grad(y, x, grad)[0]

        answer = on_all(lambda x=x, run=both_ways: run(x))
        expected = on_all(lambda x=x, run=both_ways: run(x.contiguous()))
        for ours, theirs in zip(answer, expected, strict=True):
            same(ours.contiguous(), theirs)


def test_channels_of_a_view_are_those_of_its_copy(backend, rng):
    w = draw(rng, 5, 3, 4).transpose(0, 2)
    step, zero = draw_steps(rng, 4, 16)
    mask = draw_mask(rng, w.shape)
    ours = kernels.fake_quant_learned_step(w, step, zero, 16, mask)
    assert torch.equal(ours, kernels.fake_quant_learned_step(w.contiguous(), step, zero, 16, mask))


def test_only_what_needs_a_gradient_has_one(backend, rng):
    x, (step, zero) = draw(rng, 9), draw_steps(rng, 1, 16)
    kernels.fake_quant_learned_step(x, step.requires_grad_(), zero, 16).sum().backward()
    assert step.grad.shape == (1,) and x.grad is None


def test_rejects(backend):
    x, step = torch.ones(4, 2), torch.ones(1)
    run = kernels.fake_quant_learned_step
    with pytest.raises(ValueError, match=r"step has shape \[3\], but must have \[1\] or \[4\]"):
        run(x, torch.ones(3), torch.ones(3), 16)
    with pytest.raises(ValueError, match=r"step has shape \[\], but must have"):
        run(x, torch.tensor(1.0), torch.tensor(1.0), 16)
    with pytest.raises(ValueError, match=r"zero_point has shape \[4\], but must have \[1\]"):
        run(x, step, torch.ones(4), 16)
    with pytest.raises(TypeError, match=r"step is torch.float16, but must be torch.float32"):
        run(x.half(), step.half(), step, 16)
    with pytest.raises(ValueError, match="levels is 257, but AFFINE has 2 to 256"):
        run(x, step, step, 257)
    with pytest.raises(ValueError, match="mask has 2 bytes for 8 elements, which need 1"):
        run(x, step, step, 16, torch.ones(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="grad has strides"):
        both_gradients(torch.ones(2, 4).t(), x, NOTHING, step, step, 16)
