"""Packed bits and counts of what is not zero."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import BIG, DTYPES, HUGE, INF, NAN, SIZES, draw_mask, draw_words, special

OP = torch.ops.micronet


@pytest.mark.parametrize("size", SIZES)
def test_bits_are_numpy_little_endian_bits_and_come_back(backend, rng, size):
    flags = torch.rand(size, generator=rng) > 0.5
    bits = kernels.pack_bits(flags)
    assert np.array_equal(bits.numpy(), np.packbits(flags.numpy(), bitorder="little"))
    assert torch.equal(kernels.unpack_bits(bits, size), flags)
    ones = kernels.count_bits(bits, size)
    assert ones.shape == () and ones.dtype == torch.int64 and ones == flags.sum()


def test_every_byte(backend):
    bits = torch.arange(256, dtype=torch.uint8)
    flags = kernels.unpack_bits(bits, 2048)
    assert torch.equal(kernels.pack_bits(flags), bits)
    assert kernels.count_bits(bits, 2048) == 1024
    values = torch.arange(1.0, 2049.0)
    assert torch.equal(OP.mask_gradient(values, bits), torch.where(flags, values, 0.0))


@pytest.mark.parametrize("size", [s for s in SIZES if s % 8])
def test_unused_bits_are_not_read(backend, size):
    bits = torch.full((-(-size // 8),), 255, dtype=torch.uint8)
    assert kernels.count_bits(bits, size) == size
    assert kernels.unpack_bits(bits, size).all()
    assert torch.equal(OP.mask_gradient(torch.ones(size), bits), torch.ones(size))


def test_views_are_packed_in_logical_order(backend, rng):
    flags = torch.rand(3, 5, 4, 7, generator=rng) > 0.5
    for view in (
        flags.transpose(0, 3),
        flags.to(memory_format=torch.channels_last),
        flags[1:],
        flags[..., ::2],
        flags[:1].expand(3, 5, 4, 7),
    ):
        expected = np.packbits(view.numpy().ravel(), bitorder="little")
        assert np.array_equal(kernels.pack_bits(view).numpy(), expected)


def test_misaligned_slices(on_all, rng):
    flags = torch.rand(4099, generator=rng) > 0.5
    bits = draw_mask(rng, (8 * 515,))
    for start in range(1, 9):
        size = 4099 - start
        on_all(lambda start=start: kernels.pack_bits(flags[start:]))
        part = bits[start:][: -(-size // 8)]
        if part.numel() == -(-size // 8):
            on_all(lambda part=part, size=size: kernels.unpack_bits(part, size))
            on_all(lambda part=part, size=size: kernels.count_bits(part, size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_selection_keeps_the_bits_of_what_it_keeps(on_all, rng, dtype):
    word = torch.int32 if dtype == torch.float32 else torch.int16
    for size in SIZES:
        values = draw_words(rng, size, dtype=dtype)
        bits = draw_mask(rng, (size,))
        for select in (OP.mask_gradient, OP.fake_quant_per_tensor_backward):
            chosen = on_all(lambda v=values, b=bits, select=select: select(v, b))
            keep = kernels.unpack_bits(bits, size)
            assert torch.equal(chosen[keep].view(word), values[keep].view(word))
            assert not chosen[~keep].view(word).any(), "what is dropped is +0"


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    flags = torch.rand(BIG, generator=rng) > 0.5
    bits = on_all(lambda: kernels.pack_bits(flags))
    assert torch.equal(on_all(lambda: kernels.unpack_bits(bits, BIG)), flags)
    assert on_all(lambda: kernels.count_bits(bits, BIG)) == flags.sum()
    values = torch.randn(BIG, generator=rng).to(dtype)
    on_all(lambda: OP.mask_gradient(values, bits))
    w = (values * flags)[: 601 * 499].view(601, 499)
    assert on_all(lambda: kernels.count_nonzero(w)) == np.count_nonzero(w.float().numpy())
    on_all(lambda: kernels.count_nonzero_per_channel(w))
    on_all(lambda: kernels.count_nonzero_per_channel(w.view(1, -1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_selection_beyond_the_caches(on_all, rng, dtype):
    bits = draw_mask(rng, (HUGE,))
    values = torch.randn(HUGE, generator=rng).to(dtype)
    on_all(lambda: OP.mask_gradient(values, bits))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1,), (9,), (0, 4), (4, 0), (3, 8), (7, 3, 5), (16, 1, 5, 5), (5, 31), (2, 997)]
)
def test_counts_are_those_of_numpy(backend, rng, shape, dtype):
    w = torch.randn(shape, generator=rng) * (torch.rand(shape, generator=rng) > 0.5)
    w = w.to(dtype)
    flat = w.float().numpy().reshape(shape[0], math.prod(shape[1:]))
    rows = np.count_nonzero(flat, axis=1)
    assert np.array_equal(kernels.count_nonzero_per_channel(w).numpy(), rows)
    total = kernels.count_nonzero(w)
    assert total.shape == () and total.dtype == torch.int64 and total == rows.sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_zeros_are_not_counted(backend, dtype):
    odd = special(dtype)
    zeros = int((odd.double() == 0).sum())
    assert zeros >= 2
    assert kernels.count_nonzero(odd) == odd.numel() - zeros
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # a denormal
    w = torch.tensor([[0.0, -0.0, least], [NAN, INF, -least]], dtype=dtype)
    assert kernels.count_nonzero_per_channel(w).tolist() == [1, 3]
    assert kernels.count_nonzero_per_channel(w.t()).tolist() == [1, 1, 2]
    assert kernels.count_nonzero(torch.tensor(2.0, dtype=dtype)) == 1


def test_rejects(backend):
    with pytest.raises(TypeError, match=r"flags is torch.uint8, but must be torch.bool"):
        kernels.pack_bits(torch.zeros(8, dtype=torch.uint8))
    for run in (kernels.unpack_bits, kernels.count_bits):
        with pytest.raises(ValueError, match="bits has 2 bytes for 17 flags, which need 3"):
            run(torch.zeros(2, dtype=torch.uint8), 17)
        with pytest.raises(ValueError, match="bits has 3 bytes for 16 flags, which need 2"):
            run(torch.zeros(3, dtype=torch.uint8), 16)
        with pytest.raises(ValueError, match="numel is -1, but must not be negative"):
            run(torch.zeros(0, dtype=torch.uint8), -1)
    with pytest.raises(TypeError, match=r"w is torch.int32, but must be float32, bfloat16 or"):
        kernels.count_nonzero(torch.zeros(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="w is a scalar, but must have channels"):
        kernels.count_nonzero_per_channel(torch.tensor(1.0))
