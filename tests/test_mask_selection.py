"""Exactly k smallest magnitudes are pruned, ties by lower index."""

import math

import numpy as np
import pytest
import torch

import micronet_kernels as kernels

SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 997, 10007]


def expected(w, k):
    """A stable sort in NumPy: the k first are pruned."""
    flat = np.abs(w.numpy().ravel())
    keep = np.ones(flat.size, dtype=bool)
    keep[np.argsort(flat, kind="stable")[:k]] = False
    return torch.from_numpy(keep)


def inputs(rng, size):
    ties = torch.randint(-3, 4, (size,), generator=rng) / 4
    exponents = torch.randint(-149, 128, (size,), generator=rng).float()
    wide = torch.exp2(exponents) * torch.randn(size, generator=rng).sign()
    extreme = torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf, 3e38, 1e-39])
    return {
        "random": torch.randn(size, generator=rng),
        "ties": ties,
        "equal": torch.full((size,), 0.3) * torch.randn(size, generator=rng).sign(),
        "zeros": torch.zeros(size),
        "all exponents": wide,
        "extremes": extreme[torch.randint(0, 8, (size,), generator=rng)],
    }


@pytest.mark.parametrize("size", SIZES)
def test_keeps_what_a_stable_sort_keeps(backend, rng, size):
    counts = {0, 1, size // 3, size // 2, size - 1, size} & set(range(size + 1))
    for name, w in inputs(rng, size).items():
        for k in counts:
            keep = kernels.unpack_bits(kernels.smallest_magnitude_mask(w, k), size)
            assert torch.equal(keep, expected(w, k)), (name, k)
            assert (~keep).sum() == k


def test_unused_bits_are_zero(backend):
    mask = kernels.smallest_magnitude_mask(torch.arange(9.0), 2)
    assert mask.tolist() == [0b11111100, 0b00000001]


def test_views_count_in_logical_order(backend, rng):
    w = torch.randn(4, 6, 3, 5, generator=rng)
    for view in (w.transpose(0, 1), w.to(memory_format=torch.channels_last), w[1:, ::2]):
        bits = kernels.smallest_magnitude_mask(view, 17)
        assert torch.equal(kernels.unpack_bits(bits, view.numel()), expected(view, 17))


def test_takes_parameters(backend):
    mask = kernels.smallest_magnitude_mask(torch.nn.Parameter(torch.arange(8.0)), 4)
    assert mask.tolist() == [0b11110000] and not mask.requires_grad


def test_rejects(backend):
    for k in (-1, 6):
        with pytest.raises(ValueError, match=f"k is {k}, but w has 5 weights to prune"):
            kernels.smallest_magnitude_mask(torch.ones(5), k)
    for nan in (math.nan, -math.nan):
        w = torch.ones(5)
        w[3] = nan
        with pytest.raises(ValueError, match="weights hold NaN, which has no magnitude"):
            kernels.smallest_magnitude_mask(w, 2)
    with pytest.raises(TypeError, match=r"w is torch.int64, but must be torch.float32"):
        kernels.smallest_magnitude_mask(torch.arange(5), 2)
