"""Weights: masked, rounded to each channel's own range, and the masked gradient."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels

OP = torch.ops.micronet
SCHEMES = list(kernels.Scheme)
SYMMETRIC = kernels.Scheme.DISTILLER_SYMMETRIC
LEVELS = [2, 5, 16, 256]
SHAPES = [(1, 1), (1,), (7,), (3, 7), (3, 8), (8, 9), (5, 15), (2, 16), (2, 17), (9, 63), (4, 64)]
SHAPES += [(13, 65), (48, 1, 5, 5), (24, 96, 1, 1), (31, 37), (3, 40009)]
NOTHING = torch.empty(0, dtype=torch.uint8)
INF, NAN = math.inf, math.nan


def random_mask(rng, shape):
    return kernels.pack_bits(torch.rand(shape, generator=rng) > 0.4)


def levels_for(scheme, levels):
    return max(levels, 3) if scheme == SYMMETRIC else levels


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("levels", LEVELS)
def test_matches_reference_at_every_shape(on_all, rng, levels, scheme):
    levels = levels_for(scheme, levels)
    for shape in SHAPES:
        w = torch.randn(shape, generator=rng)
        for mask in (NOTHING, random_mask(rng, shape)):
            args = (w, mask, levels, scheme)
            w_hat, scale, zero = on_all(lambda args=args: OP.fake_quant_per_channel(*args))
            codes, *same_quantiser = on_all(lambda args=args: OP.quantize_per_channel(*args))
            assert torch.equal(scale, same_quantiser[0]) and torch.equal(zero, same_quantiser[1])
            column = (-1,) + (1,) * (w.dim() - 1)
            value = (codes.float() + zero.view(column)) / scale.view(column)
            assert torch.equal(value, w_hat), "codes must say what the values say"


def test_matches_reference_on_threads(on_all, rng, threads):
    w = torch.randn(301, 1009, generator=rng)
    mask = random_mask(rng, w.shape)
    on_all(lambda: OP.fake_quant_per_channel(w, mask, 16, 0))
    on_all(lambda: OP.quantize_per_channel(w, mask, 16, 0))
    on_all(lambda: OP.mask_gradient(w, mask))


def test_agrees_with_numpy(backend, rng):
    """The formula of the quantiser in NumPy, one float32 operation at a time."""
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
    codes, _, _ = on_all(lambda: OP.quantize_per_channel(w, NOTHING, 16, scheme))
    row = dict(zip(CHANNELS, range(len(CHANNELS)), strict=True))
    n = 7.0 if scheme == SYMMETRIC else 15.0
    for name in ("zeros", "minus zeros"):
        assert scale[row[name]] == 1 and zero[row[name]] == 0
        assert not w_hat[row[name]].any() and not codes[row[name]].any()
    assert (w_hat[row["constant"]] - 0.7).abs().max() <= 0.7 * 2**-23
    assert zero[row["all positive"]] == 0 and codes[row["all positive"]].max() == n
    if scheme != SYMMETRIC:
        assert zero[row["all negative"]] == -n and codes[row["all negative"]].min() == 0
    assert w_hat[row["one NaN"]].isnan().all() and scale[row["one NaN"]].isnan()
    assert not codes[row["one NaN"]].any()
    assert w_hat[row["infinite"]].isnan().all()


def test_a_pruned_nan_or_extreme_is_not_seen(backend):
    w = torch.tensor([[1.0, NAN, -1.0], [0.25, 100.0, 0.5]])
    mask = kernels.pack_bits(torch.tensor([[True, False, True]] * 2))
    w_hat = kernels.fake_quant_per_channel(w, 256, mask)
    assert not w_hat[:, 1].any()
    assert w_hat[1, 2] == 0.5 and w_hat[0].abs().max() <= 1.01


def test_gradient_is_one_where_kept_and_zero_where_pruned(backend, rng):
    for shape in SHAPES:
        w = torch.randn(shape, generator=rng).requires_grad_()
        keep = torch.rand(shape, generator=rng) > 0.4
        grad = torch.randn(shape, generator=rng)
        kernels.fake_quant_per_channel(w, 16, kernels.pack_bits(keep)).backward(grad)
        assert torch.equal(w.grad, torch.where(keep, grad, 0.0))
        w.grad = None
        kernels.fake_quant_per_channel(w, 16).backward(grad)
        assert torch.equal(w.grad, grad)


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


def test_misaligned_slice(on_all, rng):
    w = torch.randn(1 + 3 * 17, generator=rng)[1:].view(3, 17)
    mask = torch.cat([NOTHING.new_zeros(1), random_mask(rng, w.shape)])[1:]
    on_all(lambda: OP.fake_quant_per_channel(w, mask, 16, 0))


def test_levels_of_bits_never_drift():
    bits = [1, 2, 2.4, 2.5, 3, 4, 5, 8]
    assert [kernels.levels_of_bits(b) for b in bits] == [2, 4, 5, 5, 8, 16, 32, 256]
    for wrong in (0, 0.5, 8.1, -3, NAN):
        with pytest.raises(ValueError, match=f"bits is {wrong}, but a quantiser has 1 to 8 bits"):
            kernels.levels_of_bits(wrong)


def test_rejects(backend):
    w = torch.ones(8, 8)
    with pytest.raises(ValueError, match="mask has 7 bytes for 64 weights, which need 8"):
        kernels.fake_quant_per_channel(w, 16, torch.zeros(7, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"mask is torch.bool, but must be torch.uint8"):
        kernels.quantize_per_channel(w, 16, torch.zeros(8, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"w is torch.float16, but must be torch.float32"):
        kernels.quantize_per_channel(w.half(), 16)
    with pytest.raises(ValueError, match=r"w has shape \[0, 3\], but must have channels"):
        kernels.fake_quant_per_channel(torch.ones(0, 3), 16)
    with pytest.raises(ValueError, match=r"w has shape \[\], but must have channels"):
        kernels.fake_quant_per_channel(torch.tensor(1.0), 16)
    with pytest.raises(ValueError, match="levels is 1, but AFFINE has 2 to 256"):
        kernels.fake_quant_per_channel(w, 1)
    with pytest.raises(ValueError, match=r"w has strides \[1, 8\], but must be contiguous"):
        OP.fake_quant_per_channel(torch.ones(8, 9)[:, :8].t().contiguous().t(), NOTHING, 16, 0)
