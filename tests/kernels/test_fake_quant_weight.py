"""Weights: masked, rounded to each channel's own range, and the masked gradient."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import (
    DTYPES,
    HALVES,
    INF,
    LEVELS,
    NAN,
    NOTHING,
    SCHEMES,
    draw_mask,
    draw_words,
    every_half,
    levels_for,
    special,
    with_quantizers,
)

OP = torch.ops.micronet
# Rows around whole bytes of mask and whole vectors, and those of the networks; with rows that are
# no whole bytes, each row's bits start elsewhere in a byte.
SHAPES = [(1, 1), (1,), (7,), (19, 1), (3, 7), (3, 8), (11, 9), (5, 15), (2, 16), (9, 17), (5, 31)]
SHAPES += [(3, 32), (5, 33), (9, 63), (4, 64), (13, 65), (31, 37), (48, 1, 3, 3), (48, 1, 5, 5)]
SHAPES += [(24, 96, 1, 1), (5, 1280), (5, 1283), (3, 5000), (3, 5003), (3, 40009)]


@with_quantizers(LEVELS)
def test_matches_reference_at_every_shape(on_all, rng, levels, scheme, dtype):
    levels = levels_for(scheme, levels)
    # With a mask and without in turn, the other way around for half of all quantizers.
    masked = bool(torch.randint(2, (), generator=rng))
    for shape in SHAPES:
        w, masked = torch.randn(shape, generator=rng).to(dtype), not masked
        args = (w, draw_mask(rng, shape) if masked else NOTHING, levels, scheme)
        w_hat, scale, zero = on_all(lambda args=args: OP.fake_quant_per_channel(*args))
        codes, same, least = on_all(lambda args=args: OP.quantize_per_channel(*args))
        assert w_hat.dtype == dtype and scale.dtype == zero.dtype == torch.float32
        # Codes of symmetric weights are stored from 0 on, which their zero point takes back.
        n = (levels - 1) // 2 if scheme == kernels.Scheme.SYMMETRIC else 0
        assert torch.equal(scale, same) and torch.equal(zero - n, least)
        column = (-1,) + (1,) * (w.dim() - 1)
        value = (codes.float() + least.view(column)) / scale.view(column)
        assert torch.equal(value.to(dtype), w_hat), "codes must say what the values say"


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    for shape in [(301, 1009), (2, 150_003), (30_011, 9), (1024, 128)]:
        w = torch.randn(shape, generator=rng).to(dtype)
        mask = draw_mask(rng, shape)
        on_all(lambda w=w, mask=mask: OP.fake_quant_per_channel(w, mask, 16, 0))
        on_all(lambda w=w, mask=mask: OP.quantize_per_channel(w, mask, 16, 0))
        on_all(lambda w=w, mask=mask: OP.mask_gradient(w, mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_random_words(on_all, rng, dtype):
    for scheme in SCHEMES:
        for levels in (5, 16, 256):
            # Most channels hold no NaN; each has its own range.
            w = draw_words(rng, 65, 9, dtype=dtype)
            for mask in (NOTHING, draw_mask(rng, w.shape)):
                args = (w, mask, levels, scheme)
                on_all(lambda args=args: OP.fake_quant_per_channel(*args))
                on_all(lambda args=args: OP.quantize_per_channel(*args))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_finite_number_of_a_half_type(on_all, dtype):
    numbers = every_half(dtype)
    numbers = numbers[numbers.isfinite() & (numbers.abs() < 1e30)].sort().values
    w = numbers[: numbers.numel() // 64 * 64].view(64, -1)  # channels of widely different ranges
    for scheme in SCHEMES:
        for levels in (5, 16, 256):
            args = (w, NOTHING, levels, scheme)
            on_all(lambda args=args: OP.fake_quant_per_channel(*args))
            on_all(lambda args=args: OP.quantize_per_channel(*args))


def test_agrees_with_numpy(backend, rng):
    """The formula of the quantizer in NumPy, one float32 operation at a time."""
    w = torch.randn(6, 35, generator=rng)
    keep = torch.rand(w.shape, generator=rng) > 0.5
    for levels in LEVELS:
        n = np.float32(levels - 1)
        masked = np.where(keep.numpy(), w.numpy(), np.float32(0))
        lo, hi = masked.min(1, keepdims=True), masked.max(1, keepdims=True)
        lo, hi = np.minimum(lo, np.float32(0)), np.maximum(hi, np.float32(0))
        scale = n / (hi - lo)
        zero = np.rint(scale * lo)
        expected = np.clip(np.rint(scale * masked - zero), 0, n)
        codes, s, z = kernels.quantize_per_channel(w, levels, kernels.pack_bits(keep))
        assert codes.dtype == torch.uint8 and np.array_equal(codes.numpy(), expected)
        assert np.array_equal(s.numpy(), scale[:, 0]) and np.array_equal(z.numpy(), zero[:, 0])


CHANNELS = {
    "zeros": [0.0, 0.0, 0.0, 0.0],
    "minus zeros": [-0.0, 0.0, -0.0, -0.0],
    "constant": [0.7, 0.7, 0.7, 0.7],
    "all positive": [0.5, 1.0, 1.5, 2.0],
    "all negative": [-0.5, -1.0, -1.5, -2.0],
    "denormal": [1e-45, -1e-45, 1e-40, 0.0],
    "huge": [3e38, -3e38, 1.0, 0.0],
    "one NaN": [1.0, NAN, -1.0, 0.0],
    "infinite": [1.0, INF, -1.0, 0.0],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_special_channels(on_all, scheme):
    w = torch.tensor(list(CHANNELS.values()))
    w_hat, scale, zero = on_all(lambda: OP.fake_quant_per_channel(w, NOTHING, 16, scheme))
    codes, _, least = on_all(lambda: OP.quantize_per_channel(w, NOTHING, 16, scheme))
    whole = codes + least[:, None].nan_to_num() - zero[:, None].nan_to_num()
    row = dict(zip(CHANNELS, range(len(CHANNELS)), strict=True))
    n = 7.0 if scheme.is_symmetric else 15.0
    for name in ("zeros", "minus zeros"):
        assert scale[row[name]] == 1 and zero[row[name]] == 0
        assert not w_hat[row[name]].any() and not whole[row[name]].any()
    assert (w_hat[row["constant"]] - 0.7).abs().max() <= 0.7 * 2**-23
    assert zero[row["all positive"]] == 0 and whole[row["all positive"]].max() == n
    if not scheme.is_symmetric:
        assert zero[row["all negative"]] == -n and codes[row["all negative"]].min() == 0
    assert w_hat[row["one NaN"]].isnan().all() and scale[row["one NaN"]].isnan()
    assert not codes[row["one NaN"]].any()
    assert w_hat[row["infinite"]].isnan().all() and not codes[row["infinite"], 1].any()
    assert not scale[row["infinite"]].isfinite() or scale[row["infinite"]] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_special_values_alone_and_among_others(on_all, scheme, dtype):
    odd = special(dtype)
    few, many = torch.ones(len(odd), 19, dtype=dtype), torch.ones(len(odd), 99, dtype=dtype)
    few[:, 17] = many[:, 97] = odd
    alone = [odd[:, None].expand(-1, n) for n in (1, 19, 99)]
    alone += [odd[:, None] * (torch.arange(n) % 2).to(dtype) for n in (19, 99)]
    for w in (few, -few, many, -many, torch.cat([odd, odd])[None], *alone):
        for levels in (16, 33):
            args = (w.contiguous(), NOTHING, levels, scheme)
            on_all(lambda args=args: OP.fake_quant_per_channel(*args))
            on_all(lambda args=args: OP.quantize_per_channel(*args))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_channel_that_is_pruned_altogether(on_all, rng, dtype):
    w = torch.randn(3, 9, generator=rng).to(dtype)
    w[1, 4], w[1, 5] = NAN, INF
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[1] = False
    mask = kernels.pack_bits(keep)
    w_hat, scale, zero = on_all(lambda: OP.fake_quant_per_channel(w, mask, 16, 0))
    codes, _, _ = on_all(lambda: OP.quantize_per_channel(w, mask, 16, 0))
    assert not w_hat[1].any() and not codes[1].any() and scale[1] == 1 and zero[1] == 0
    assert w_hat[0].any() and w_hat[2].any()


def test_a_pruned_nan_or_extreme_is_not_seen(backend):
    w = torch.tensor([[1.0, NAN, -1.0], [0.25, 100.0, 0.5]])
    mask = kernels.pack_bits(torch.tensor([[True, False, True]] * 2))
    w_hat = kernels.fake_quant_per_channel(w, 256, mask)
    assert not w_hat[:, 1].any()
    assert w_hat[1, 2] == 0.5 and w_hat[0].abs().max() <= 1.01


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_is_one_where_kept_and_zero_where_pruned(backend, rng, dtype):
    for shape in SHAPES:
        w = torch.randn(shape, generator=rng).to(dtype).requires_grad_()
        keep = torch.rand(shape, generator=rng) > 0.4
        grad = torch.randn(shape, generator=rng).to(dtype)
        kernels.fake_quant_per_channel(w, 16, kernels.pack_bits(keep)).backward(grad)
        assert torch.equal(w.grad, torch.where(keep, grad, 0.0))
        w.grad = None
        kernels.fake_quant_per_channel(w, 16).backward(grad)
        assert torch.equal(w.grad, grad)


def test_gradient_at_and_around_the_ends_of_a_channel(backend):
    """The range is that of the weights themselves, so no kept weight lies outside."""
    end = torch.tensor([1.0])
    w = torch.cat([end, end.nextafter(torch.tensor([0.0])), -end, torch.zeros(1), end * 9])
    keep = torch.tensor([[True, True, True, True, False]])
    w = w[None].requires_grad_()
    kernels.fake_quant_per_channel(w, 16, kernels.pack_bits(keep)).sum().backward()
    assert w.grad.tolist() == [[1, 1, 1, 1, 0]]


def test_a_dropped_gradient_is_zero_even_if_it_was_not_finite(backend):
    w = torch.ones(1, 4, requires_grad=True)
    mask = kernels.pack_bits(torch.tensor([False, False, True, True]))
    kernels.fake_quant_per_channel(w, 16, mask).backward(torch.tensor([[NAN, INF, INF, 2.0]]))
    assert w.grad.tolist() == [[0.0, 0.0, INF, 2.0]]


def test_views_count_in_logical_order(backend, rng):
    stored = torch.randn(5, 3, 4, 6, generator=rng)
    keep = torch.rand(6, 3, 4, 5, generator=rng) > 0.5
    mask = kernels.pack_bits(keep)
    view = stored.transpose(0, 3).requires_grad_()
    copy = view.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    for x in (view, copy.detach().contiguous(memory_format=torch.channels_last)):
        assert torch.equal(
            kernels.fake_quant_per_channel(x, 16, mask),
            kernels.fake_quant_per_channel(copy, 16, mask),
        )
    grad = torch.randn(copy.shape, generator=rng)
    for x in (view, copy):
        kernels.fake_quant_per_channel(x, 16, mask).backward(grad)
    assert torch.equal(view.grad, copy.grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_slices(on_all, rng, dtype):
    w = torch.randn(1 + 3 * 17, generator=rng).to(dtype)[1:].view(3, 17)
    mask = torch.cat([NOTHING.new_zeros(1), draw_mask(rng, w.shape)])[1:]
    on_all(lambda: OP.fake_quant_per_channel(w, mask, 16, 0))
    on_all(lambda: OP.quantize_per_channel(w, mask, 16, 0))
    on_all(lambda: OP.mask_gradient(w, mask))


def test_bits_of_levels_give_the_levels_back():
    for levels in range(2, 257):
        bits = kernels.bits_of_levels(levels)
        assert kernels.levels_of_bits(bits) == levels
        assert 0 <= bits - math.log2(levels) < 1e-14
    for wrong in (-1, 0, 1, 257):
        with pytest.raises(ValueError, match=f"levels is {wrong}"):
            kernels.bits_of_levels(wrong)


def test_levels_of_bits_never_drift():
    bits = [1, 2, 2.4, 2.5, 3, 4, 5, 8]
    assert [kernels.levels_of_bits(b) for b in bits] == [2, 4, 5, 5, 8, 16, 32, 256]
    for wrong in (0, 0.5, 8.1, -3, NAN):
        with pytest.raises(ValueError, match=f"bits is {wrong}, but a quantizer has 1 to 8 bits"):
            kernels.levels_of_bits(wrong)


def test_rejects(backend):
    w = torch.ones(8, 8)
    with pytest.raises(ValueError, match="mask has 7 bytes for 64 weights, which need 8"):
        kernels.fake_quant_per_channel(w, 16, torch.zeros(7, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"mask is torch.bool, but must be torch.uint8"):
        kernels.quantize_per_channel(w, 16, torch.zeros(8, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"w is torch.float64, but must be float32, bfloat16 or"):
        kernels.quantize_per_channel(w.double(), 16)
    with pytest.raises(ValueError, match=r"w has shape \[0, 3\], but must have channels"):
        kernels.fake_quant_per_channel(torch.ones(0, 3), 16)
    with pytest.raises(ValueError, match=r"w has shape \[\], but must have channels"):
        kernels.fake_quant_per_channel(torch.tensor(1.0), 16)
    with pytest.raises(ValueError, match="levels is 1, but AFFINE has 2 to 256"):
        kernels.fake_quant_per_channel(w, 1)
    with pytest.raises(ValueError, match=r"w has strides \[1, 8\], but must be contiguous"):
        OP.fake_quant_per_channel(torch.ones(8, 9)[:, :8].t().contiguous().t(), NOTHING, 16, 0)
