"""Packed bits and counts of what is not zero."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels

OP = torch.ops.micronet
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 997, 4095, 4096, 4097]


@pytest.mark.parametrize("size", SIZES)
def test_bits_are_numpy_little_endian_bits_and_come_back(backend, rng, size):
    flags = torch.rand(size, generator=rng) > 0.5
    bits = kernels.pack_bits(flags)
    assert np.array_equal(bits.numpy(), np.packbits(flags.numpy(), bitorder="little"))
    assert torch.equal(kernels.unpack_bits(bits, size), flags)


def test_every_byte(backend):
    bits = torch.arange(256, dtype=torch.uint8)
    flags = kernels.unpack_bits(bits, 2048)
    assert torch.equal(kernels.pack_bits(flags), bits)
    values = torch.arange(1.0, 2049.0)
    assert torch.equal(OP.mask_gradient(values, bits), torch.where(flags, values, 0.0))


def test_views_are_packed_in_logical_order(backend, rng):
    flags = torch.rand(3, 5, 4, 7, generator=rng) > 0.5
    for view in (flags.transpose(0, 3), flags.to(memory_format=torch.channels_last), flags[1:]):
        expected = np.packbits(view.numpy().ravel(), bitorder="little")
        assert np.array_equal(kernels.pack_bits(view).numpy(), expected)


def test_selection_keeps_the_bits_of_what_it_keeps(on_all, rng):
    for size in SIZES:
        values = torch.randint(-(2**31), 2**31 - 1, (size,), generator=rng, dtype=torch.int32)
        values = values.view(torch.float32)  # NaN, infinity and denormals among them
        bits = kernels.pack_bits(torch.rand(size, generator=rng) > 0.5)
        chosen = on_all(lambda v=values, b=bits: OP.mask_gradient(v, b))
        keep = kernels.unpack_bits(bits, size)
        assert torch.equal(chosen[keep].view(torch.int32), values[keep].view(torch.int32))
        assert not chosen[~keep].any()


def test_matches_reference_on_threads(on_all, rng, threads):
    flags = torch.rand(300_007, generator=rng) > 0.5
    bits = on_all(lambda: kernels.pack_bits(flags))
    assert torch.equal(on_all(lambda: kernels.unpack_bits(bits, flags.numel())), flags)
    w = torch.randn(601, 499, generator=rng) * flags[: 601 * 499].view(601, 499)
    assert on_all(lambda: kernels.count_nonzero(w)) == np.count_nonzero(w.numpy())
    on_all(lambda: kernels.count_nonzero_per_channel(w))


@pytest.mark.parametrize(
    "shape", [(1,), (9,), (0, 4), (4, 0), (3, 8), (7, 3, 5), (16, 1, 5, 5), (2, 997)]
)
def test_counts_are_those_of_numpy(backend, rng, shape):
    w = torch.randn(shape, generator=rng) * (torch.rand(shape, generator=rng) > 0.5)
    rows = np.count_nonzero(w.numpy().reshape(shape[0], math.prod(shape[1:])), axis=1)
    assert np.array_equal(kernels.count_nonzero_per_channel(w).numpy(), rows)
    total = kernels.count_nonzero(w)
    assert total.shape == () and total.dtype == torch.int64 and total == rows.sum()


def test_only_zeros_are_not_counted(backend):
    w = torch.tensor([[0.0, -0.0, 1e-45], [math.nan, math.inf, -1e-45]])
    assert kernels.count_nonzero_per_channel(w).tolist() == [1, 3]
    assert kernels.count_nonzero(w) == 4
    assert kernels.count_nonzero_per_channel(w.t()).tolist() == [1, 1, 2]
    assert kernels.count_nonzero(torch.tensor(2.0)) == 1


def test_rejects(backend):
    with pytest.raises(TypeError, match=r"flags is torch.uint8, but must be torch.bool"):
        kernels.pack_bits(torch.zeros(8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="bits has 2 bytes for 17 flags, which need 3"):
        kernels.unpack_bits(torch.zeros(2, dtype=torch.uint8), 17)
    with pytest.raises(ValueError, match="bits has 3 bytes for 16 flags, which need 2"):
        kernels.unpack_bits(torch.zeros(3, dtype=torch.uint8), 16)
    with pytest.raises(ValueError, match="numel is -1, but must not be negative"):
        kernels.unpack_bits(torch.zeros(0, dtype=torch.uint8), -1)
    with pytest.raises(TypeError, match=r"w is torch.int32, but must be torch.float32"):
        kernels.count_nonzero(torch.zeros(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="w is a scalar, but must have channels"):
        kernels.count_nonzero_per_channel(torch.tensor(1.0))
