"""Activations as codes of four or eight bits: what is kept in place of the values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import micronet_kernels as kernels
from samples import (
    BIG,
    DTYPES,
    INF,
    NAN,
    RANGES,
    SCHEMES,
    SIZES,
    draw,
    draw_ends,
    draw_words,
    layouts,
    levels_for,
    special,
    with_quantizers,
)

OP = torch.ops.micronet
LEVELS = [2, 3, 5, 16, 17, 256]


def unpacked(codes, numel, levels):
    """Codes a byte each: up to 16 levels share one."""
    return kernels.unpack_codes(codes, numel, 16) if levels <= 16 else codes


@with_quantizers(LEVELS)
def test_codes_say_what_the_values_say(on_all, rng, same, levels, scheme, dtype):
    levels = levels_for(scheme, levels)
    for size in [s for s in SIZES if s]:
        x, ends = draw(rng, size, dtype=dtype), draw_ends(rng)
        codes, inside, found = on_all(
            lambda x=x, e=ends: OP.quantize_per_tensor(x, e, levels, scheme)
        )
        bytes = -(-size // 2) if levels <= 16 else size
        assert codes.shape == (bytes,) and codes.dtype == torch.uint8
        assert int(unpacked(codes, size, levels).max()) < levels
        y = on_all(
            lambda c=codes, e=ends, s=size: OP.dequantize_per_tensor(c, e, s, levels, scheme, dtype)
        )
        expected, expected_inside = OP.fake_quant_per_tensor(x, ends, levels, scheme)
        same(y, expected)
        same(inside, expected_inside)
        assert torch.equal(found, torch.stack(x.float().aminmax()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [16, 256])
def test_matches_reference_on_threads(on_all, rng, threads, levels, dtype):
    x, ends = draw(rng, BIG, dtype=dtype), draw_ends(rng)
    codes, _, _ = on_all(lambda: OP.quantize_per_tensor(x, ends, levels, 0))
    on_all(lambda: OP.dequantize_per_tensor(codes, ends, BIG, levels, 0, dtype))


@pytest.mark.parametrize("levels", [16, 256])
def test_values_beyond_the_caches(on_all, rng, levels):
    size = 1_100_003  # of four bytes each, more than 4 MiB
    bytes = -(-size // 2) if levels <= 16 else size
    codes = torch.randint(0, 256, (bytes,), generator=rng).to(torch.uint8)
    ends = torch.tensor([-1.0, 2.0])
    on_all(lambda: OP.dequantize_per_tensor(codes, ends, size, levels, 0, torch.float32))


@pytest.mark.parametrize("levels", [5, 16, 256])
def test_codes_of_a_learned_step_have_values(on_all, rng, levels):
    """Its step and its zero point stand in the place of a range."""
    codes = torch.arange(levels, dtype=torch.uint8)
    packed = kernels.pack_codes(codes, 16) if levels <= 16 else codes
    step = torch.tensor([0.37, -2.0])
    scheme = kernels.Scheme.LEARNED
    y = on_all(
        lambda: OP.dequantize_per_tensor(packed, step, levels, levels, scheme, torch.float32)
    )
    assert torch.equal(y, (codes.float() - 2) / (1 / torch.tensor(0.37)))


def test_the_first_code_is_the_low_half(backend):
    x = torch.tensor([0.0, 1.0, 2.0, 15.0, 16.0])
    codes, inside, found = kernels.quantize_per_tensor(x, torch.tensor([0.0, 15.0]), 16)
    assert codes.tolist() == [0x10, 0xF2, 0x0F]
    assert inside.tolist() == [0b01111] and found.tolist() == [0, 16]


def test_symmetric_codes_are_stored_from_zero_on(backend):
    x = torch.tensor([-7.0, 0.0, 7.0])
    scheme = kernels.Scheme.DISTILLER_SYMMETRIC
    codes, _, _ = kernels.quantize_per_tensor(x, torch.tensor([-7.0, 7.0]), 16, scheme)
    assert codes.tolist() == [0x70, 0x0E]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ends", RANGES)
def test_special_values_in_special_ranges(on_all, ends, scheme, dtype):
    x = special(dtype).repeat(3)
    ends = torch.tensor(ends)
    codes, _, _ = on_all(lambda: OP.quantize_per_tensor(x, ends, 16, scheme))
    assert not kernels.unpack_codes(codes, x.numel(), 16)[~x.isfinite()].any()
    on_all(lambda: OP.dequantize_per_tensor(codes, ends, x.numel(), 16, scheme, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_words(on_all, rng, dtype):
    for scheme in SCHEMES:
        for levels in (5, 16, 200):
            x, ends = draw_words(rng, 997, dtype=dtype), draw_ends(rng)
            args = (x, ends, levels, scheme)
            on_all(lambda args=args: OP.quantize_per_tensor(*args))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bytes_have_values_alike(on_all, rng, dtype):
    """A half may hold a number that is no code; its value is still that of the formula."""
    for scheme in SCHEMES:
        for levels in LEVELS:
            codes = torch.arange(256, dtype=torch.uint8)
            numel = 512 if levels <= 16 else 256
            args = (codes, draw_ends(rng), numel, levels_for(scheme, levels), scheme, dtype)
            on_all(lambda args=args: OP.dequantize_per_tensor(*args))


def test_not_finite_is_reported_by_the_extremes(backend):
    for odd in (NAN, INF, -INF):
        x = torch.tensor([1.0, odd, -1.0])
        codes, _, found = kernels.quantize_per_tensor(x, torch.tensor([-1.0, 1.0]), 16)
        assert kernels.unpack_codes(codes, 3, 16).tolist() == [15, 0, 0]
        assert not found.isfinite().all()


def test_codes_follow_memory_order(on_all, rng, same):
    ends = torch.tensor([-1.0, 1.5])
    in_order = {"channels_last": (0, 2, 3, 1), "transposed view": (0, 3, 2, 1)}
    for name, x in layouts(rng).items():
        if x.numel():
            answer = on_all(lambda x=x: kernels.quantize_per_tensor(x, ends, 16))
            order = in_order.get(name, range(x.dim()))
            flat = x.permute(*order).reshape(-1) if x.dim() else x
            expected = kernels.quantize_per_tensor(flat, ends, 16)
            for ours, theirs in zip(answer, expected, strict=True):
                same(ours, theirs)


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=40),
    lo=st.floats(-(2.0**100), 2.0**100, width=32),
    hi=st.floats(-(2.0**100), 2.0**100, width=32),
    levels=st.integers(3, 256),
    scheme=st.sampled_from(SCHEMES),
)
def test_any_floats_in_any_range(values, lo, hi, levels, scheme):
    """Codes and values of the automatic backend agree, and a value is a code's value or NaN."""
    x, ends = torch.tensor(values), torch.tensor([lo, hi])
    codes, inside, _ = kernels.quantize_per_tensor(x, ends, levels, scheme)
    y = kernels.dequantize_per_tensor(codes, ends, x.numel(), levels, scheme)
    expected, expected_inside = OP.fake_quant_per_tensor(x, ends, levels, scheme)
    finite = x.isfinite()
    assert torch.equal(y[finite].nan_to_num(), expected[finite].nan_to_num())
    assert expected[~finite].isnan().all()
    assert torch.equal(inside, expected_inside)


def test_rejects(backend):
    x, ends, codes = torch.ones(3), torch.ones(2), torch.zeros(2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="levels is 257, but AFFINE has 2 to 256"):
        kernels.quantize_per_tensor(x, ends, 257)
    with pytest.raises(ValueError, match="a learned step has no range"):
        kernels.quantize_per_tensor(x, ends, 16, kernels.Scheme.LEARNED)
    with pytest.raises(ValueError, match="codes has 2 bytes for 3 codes, which need 3"):
        kernels.dequantize_per_tensor(codes, ends, 3, 17)
    with pytest.raises(ValueError, match=r"x has shape \[0\], and no elements have no range"):
        kernels.quantize_per_tensor(x[:0], ends, 16)
    with pytest.raises(ValueError, match="codes has 2 bytes for 5 codes, which need 3"):
        kernels.dequantize_per_tensor(codes, ends, 5, 16)
    with pytest.raises(ValueError, match="levels is 1, but AFFINE has 2 to 256"):
        kernels.dequantize_per_tensor(codes, ends, 3, 1)
    with pytest.raises(TypeError, match=r"range is torch.float64, but must be torch.float32"):
        kernels.dequantize_per_tensor(codes, ends.double(), 3, 16)
    with pytest.raises(TypeError, match=r"dtype is torch.int32, but must be float32"):
        kernels.dequantize_per_tensor(codes, ends, 3, 16, dtype=torch.int32)
