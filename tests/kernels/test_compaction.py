"""Values whose bit is 1, put together, and taken apart again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import micronet_kernels as kernels
from samples import BIG, DTYPES, SIZES, draw_mask, draw_words

BYTES = [torch.uint8, torch.int8]


def draw_values(rng, size, dtype):
    if dtype in DTYPES:
        return draw_words(rng, size, dtype=dtype)
    return torch.randint(-128, 128, (size,), generator=rng).to(dtype)


def there_and_back(on_all, same, values, bits, count):
    kept = on_all(lambda: kernels.compact_by_bits(values, bits, count))
    back = on_all(lambda: kernels.expand_by_bits(kept, bits, values.numel()))
    assert kept.shape == (count,) and kept.dtype == back.dtype == values.dtype
    keep = kernels.unpack_bits(bits, values.numel())
    same(kept, values[keep])
    same(back, torch.where(keep, values, values.new_zeros(())))


@pytest.mark.parametrize("dtype", DTYPES + BYTES)
def test_round_trip_at_every_size(on_all, rng, same, dtype):
    for size in SIZES:
        values = draw_values(rng, size, dtype)
        for share in (0.0, 0.1, 0.5, 0.9, 1.1):
            bits = draw_mask(rng, (size,), share)
            there_and_back(on_all, same, values, bits, int(kernels.count_bits(bits, size)))


@pytest.mark.parametrize("dtype", DTYPES + BYTES)
def test_matches_reference_on_threads(on_all, rng, same, threads, dtype):
    bits = draw_mask(rng, (BIG,))
    there_and_back(
        on_all, same, draw_values(rng, BIG, dtype), bits, int(kernels.count_bits(bits, BIG))
    )


@pytest.mark.parametrize("dtype", DTYPES + BYTES)
def test_unused_bits_are_not_read(on_all, rng, same, dtype):
    for size in (1, 7, 9, 13, 63):
        bits = torch.full((-(-size // 8),), 255, dtype=torch.uint8)
        there_and_back(on_all, same, draw_values(rng, size, dtype), bits, size)


def test_views_are_taken_in_logical_order(backend, rng):
    values = draw_values(rng, 60, torch.float32).nan_to_num().view(3, 4, 5)
    for view in (values.transpose(0, 2), values[:, ::2], values[1:], values[:1].expand(3, 4, 5)):
        bits = draw_mask(rng, view.shape)
        count = int(kernels.count_bits(bits, view.numel()))
        kept = kernels.compact_by_bits(view, bits, count)
        assert torch.equal(kept, view.reshape(-1)[kernels.unpack_bits(bits, view.numel())])


def test_parameters_are_taken_without_a_gradient(backend):
    values = torch.nn.Parameter(torch.arange(3.0))
    kept = kernels.compact_by_bits(values, torch.tensor([0b101], dtype=torch.uint8), 2)
    assert kept.tolist() == [0, 2] and not kept.requires_grad


@given(
    flags=st.lists(st.booleans(), max_size=99),
    dtype=st.sampled_from(BYTES),
    start=st.integers(0, 255),
)
def test_compaction_is_indexing_by_flags(flags, dtype, start):
    values = (torch.arange(len(flags)) + start).to(dtype)
    flags = torch.tensor(flags, dtype=torch.bool)
    bits = kernels.pack_bits(flags)
    kept = kernels.compact_by_bits(values, bits, int(flags.sum()))
    assert torch.equal(kept, values[flags])
    assert torch.equal(kernels.expand_by_bits(kept, bits, len(flags)), values * flags)


@pytest.mark.parametrize("dtype", DTYPES + BYTES)
def test_a_wrong_count_is_refused(backend, rng, dtype):
    for size in (9, 65, 4097):
        values, bits = draw_values(rng, size, dtype), draw_mask(rng, (size,))
        bits[0] |= 1  # of no bit 0 were the right count
        count = int(kernels.count_bits(bits, size))
        for wrong in (0, count - 1, count + 1, size + 9):
            with pytest.raises(ValueError, match=r"bits are 1|elements that are kept"):
                kernels.compact_by_bits(values, bits, wrong)
            with pytest.raises(ValueError, match=r"bits are 1|elements that are kept"):
                kernels.expand_by_bits(draw_values(rng, wrong, dtype), bits, size)


def test_rejects(backend):
    values, bits = torch.ones(9), torch.zeros(2, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"values is torch.float64, but must be floats or bytes"):
        kernels.compact_by_bits(values.double(), bits, 0)
    with pytest.raises(TypeError, match=r"kept is torch.int64, but must be floats or bytes"):
        kernels.expand_by_bits(values.long(), bits, 9)
    with pytest.raises(ValueError, match="bits has 2 bytes for 17 values, which need 3"):
        kernels.compact_by_bits(torch.ones(17), bits, 0)
    with pytest.raises(ValueError, match="bits has 2 bytes for 17 flags, which need 3"):
        kernels.expand_by_bits(values[:0], bits, 17)
    with pytest.raises(ValueError, match="count is -1, but must not be negative"):
        kernels.compact_by_bits(values, bits, -1)
    with pytest.raises(ValueError, match="numel is -1, but must not be negative"):
        kernels.expand_by_bits(values[:0], bits[:0], -1)
