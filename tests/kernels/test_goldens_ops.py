"""Bit for bit what the 2019 system computed, on each backend of the CPU."""

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from micronet_kernels import Scheme

# Golden -> decay, levels, scheme, and what its signed codes add to the zero point.
ACTIVATIONS = {
    "asym_u4": (0.99, 16, Scheme.DISTILLER_AFFINE, 0),
    "asym_u4_relu": (0.99, 16, Scheme.DISTILLER_AFFINE, 0),
    "asym_u8_heavy": (0.999, 256, Scheme.DISTILLER_AFFINE, 0),
    "asym_s4": (0.9, 16, Scheme.DISTILLER_AFFINE, 8),
    "sym4": (0.99, 16, Scheme.DISTILLER_SYMMETRIC, 0),
}
WEIGHTS = {
    "conv1x1_u4": (16, Scheme.DISTILLER_AFFINE),
    "dw5x5_u4": (16, Scheme.DISTILLER_AFFINE),
    "conv3x3_u4_pertensor": (16, Scheme.DISTILLER_AFFINE),
    "conv3x3_sym4": (16, Scheme.DISTILLER_SYMMETRIC),
}


@pytest.mark.parametrize("tag", ACTIVATIONS)
def test_activation(goldens, backend, tag):
    decay, levels, scheme, signed = ACTIVATIONS[tag]
    ema, ends, step = torch.zeros(2), torch.zeros(2), torch.zeros(1, dtype=torch.int64)
    steps = sum(name.startswith(f"act/{tag}/") and name.endswith("grad_x") for name in goldens)
    assert steps > 1
    for s in range(steps):
        at = f"act/{tag}/{s}/"
        x = goldens[at + "x"].clone().requires_grad_()
        kernels.update_range_(x, ema, ends, step, decay)
        for state, name in ((ema, "tracked_{}_biased"), (ends, "tracked_{}")):
            expected = torch.cat([goldens[at + name.format(end)] for end in ("min", "max")])
            assert torch.equal(state, expected)
        y = kernels.fake_quant_per_tensor(x, ends, levels, scheme)
        assert torch.equal(y, goldens[at + "y"])
        y.backward(goldens[at + "grad_y"])
        assert torch.equal(x.grad, goldens[at + "grad_x"])
        # A channel that holds the two ends has the quantizer of that range.
        _, scale, zero = kernels.quantize_per_channel(ends[None], levels, scheme=scheme)
        assert torch.equal(scale, goldens[at + "scale"])
        assert torch.equal(zero + signed, goldens[at + "zero_point"])
    y = kernels.fake_quant_per_tensor(goldens[f"act/{tag}/eval/x"], ends, levels, scheme)
    assert torch.equal(y, goldens[f"act/{tag}/eval/y"])


@pytest.mark.parametrize("tag", WEIGHTS)
def test_weight(goldens, backend, tag):
    levels, scheme = WEIGHTS[tag]
    expected = {k: goldens[f"weight/{tag}/{k}"] for k in ("y", "code", "scale", "zero_point")}
    w = goldens[f"weight/{tag}/w"]
    rows = w.reshape(1, -1) if tag.endswith("pertensor") else w
    y = kernels.fake_quant_per_channel(rows, levels, scheme=scheme).view(w.shape)
    codes, scale, zero = kernels.quantize_per_channel(rows, levels, scheme=scheme)
    assert torch.equal(y, expected["y"])
    assert torch.equal(codes.view(w.shape).float(), expected["code"])
    assert torch.equal(scale, expected["scale"].flatten())
    assert torch.equal(zero, expected["zero_point"].flatten())


def test_fractional_bits_have_five_levels_unlike_the_golden(goldens, backend):
    """2.4 bits are exactly 5 levels here; the golden's step is that of 2^2.4 - 1 = 4.28 codes."""
    golden = {k: goldens[f"weight/fc_u2.4/{k}"] for k in ("w", "y", "code", "scale")}
    levels = kernels.levels_of_bits(2.4)
    w = golden["w"].numpy()
    lo = np.minimum(w.min(1, keepdims=True), np.float32(0))
    hi = np.maximum(w.max(1, keepdims=True), np.float32(0))
    scale = np.float32(4) / (hi - lo)
    zero = np.rint(scale * lo)
    expected = np.clip(np.rint(scale * w - zero), 0, 4)
    codes, s, z = kernels.quantize_per_channel(golden["w"], levels)
    assert levels == 5 and codes.max() == 4
    assert np.array_equal(codes.numpy(), expected)
    assert np.array_equal(s.numpy(), scale[:, 0]) and np.array_equal(z.numpy(), zero[:, 0])
    y = kernels.fake_quant_per_channel(golden["w"], levels)
    assert all(row.unique().numel() <= 5 for row in y)
    assert (s != golden["scale"].flatten()).all()
    assert (codes.float() != golden["code"]).any() and (y != golden["y"]).any()


def test_affine_divides_where_the_golden_multiplied_by_a_reciprocal(goldens, backend):
    """The recipe's scheme is within one unit in the last place of the golden's scale."""
    w = goldens["weight/dw5x5_u4/w"]
    _, ours, _ = kernels.quantize_per_channel(w, 16)
    theirs = goldens["weight/dw5x5_u4/scale"].flatten()
    assert (ours.view(torch.int32) - theirs.view(torch.int32)).abs().max() == 1


@pytest.mark.parametrize("sparsity", ["0.05", "0.333", "0.6", "0.9"])
def test_mask(goldens, backend, sparsity):
    w, expected = goldens["prune/w"], goldens[f"prune/{sparsity}/mask"]
    bits = kernels.smallest_magnitude_mask(w, int(float(sparsity) * w.numel()))
    assert torch.equal(kernels.unpack_bits(bits, w.numel()).view(w.shape), expected)
