"""Exactly k smallest magnitudes are pruned, ties by lower index."""

import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from samples import BIG, DTYPES, INF, NAN, SIZES, draw_words, every_half, special


def expected(w, k):
    """A stable sort in NumPy: the k first are pruned."""
    flat = np.abs(w.float().numpy().ravel())
    keep = np.ones(flat.size, dtype=bool)
    keep[np.argsort(flat, kind="stable")[:k]] = False
    return torch.from_numpy(keep)


def inputs(rng, size, dtype):
    ties = torch.randint(-3, 4, (size,), generator=rng) / 4
    extreme = special(dtype)[:-1]
    found = {
        "random": torch.randn(size, generator=rng),
        "ties": ties,
        "equal": torch.full((size,), 0.3) * torch.randn(size, generator=rng).sign(),
        "zeros": torch.zeros(size),
        "all exponents": draw_words(rng, size, dtype=dtype).nan_to_num(nan=0.5),
        "extremes": extreme[torch.randint(len(extreme), (size,), generator=rng)],
    }
    return {name: w.to(dtype) for name, w in found.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, 10_007])
def test_keeps_what_a_stable_sort_keeps(backend, rng, size, dtype):
    counts = {0, 1, size // 3, size // 2, size - 1, size} & set(range(size + 1))
    for name, w in inputs(rng, size, dtype).items():
        for k in counts:
            keep = kernels.unpack_bits(kernels.smallest_magnitude_mask(w, k), size)
            assert torch.equal(keep, expected(w, k)), (name, k)
            assert (~keep).sum() == k


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_on_threads(on_all, rng, threads, dtype):
    for w in (torch.randn(BIG, generator=rng), torch.randint(-9, 9, (BIG,), generator=rng)):
        w = w.to(dtype)
        for k in (1, BIG // 3, BIG - 1):
            on_all(lambda w=w, k=k: kernels.smallest_magnitude_mask(w, k))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_every_number_of_a_half_type(on_all, rng, dtype):
    w = every_half(dtype)
    w = w[~w.isnan()]
    w = w[torch.randperm(w.numel(), generator=rng)]
    for k in (1, 2, 99, w.numel() // 2, w.numel() - 3):
        mask = on_all(lambda k=k: kernels.smallest_magnitude_mask(w, k))
        assert torch.equal(kernels.unpack_bits(mask, w.numel()), expected(w, k))


def test_unused_bits_are_zero(backend):
    mask = kernels.smallest_magnitude_mask(torch.arange(9.0), 2)
    assert mask.tolist() == [0b11111100, 0b00000001]


def test_views_count_in_logical_order(backend, rng):
    w = torch.randn(4, 6, 3, 5, generator=rng)
    for view in (w.transpose(0, 1), w.to(memory_format=torch.channels_last), w[1:, ::2]):
        bits = kernels.smallest_magnitude_mask(view, 17)
        assert torch.equal(kernels.unpack_bits(bits, view.numel()), expected(view, 17))


@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned_slices(backend, rng, dtype):
    w = torch.randn(1001, generator=rng).to(dtype)
    for start in (1, 3):
        mask = kernels.smallest_magnitude_mask(w[start:], 400)
        assert torch.equal(kernels.unpack_bits(mask, 1001 - start), expected(w[start:], 400))


def test_takes_parameters(backend):
    mask = kernels.smallest_magnitude_mask(torch.nn.Parameter(torch.arange(8.0)), 4)
    assert mask.tolist() == [0b11110000] and not mask.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_has_the_largest_magnitude(backend, dtype):
    w = torch.tensor([INF, 1.0, -INF, torch.finfo(dtype).max], dtype=dtype)
    mask = kernels.smallest_magnitude_mask(w, 2)
    assert mask.tolist() == [0b0101]


def test_rejects(backend, threads):
    for k in (-1, 6):
        with pytest.raises(ValueError, match=f"k is {k}, but w has 5 weights to prune"):
            kernels.smallest_magnitude_mask(torch.ones(5), k)
    for nan in (NAN, -NAN):
        for dtype in DTYPES:
            for size in (5, BIG):
                w = torch.ones(size, dtype=dtype)
                w[-2] = nan
                with pytest.raises(ValueError, match="weights hold NaN, which has no magnitude"):
                    kernels.smallest_magnitude_mask(w, 2)
    with pytest.raises(TypeError, match=r"w is torch.int64, but must be float32, bfloat16 or"):
        kernels.smallest_magnitude_mask(torch.arange(5), 2)
