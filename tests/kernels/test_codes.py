"""Codes of any number of levels, packed in groups."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import micronet_kernels as kernels
from micronet_kernels.scheme import code_group, packed_bytes
from samples import BIG

ALL_LEVELS = range(2, 257)


def draw_codes(rng, size, levels):
    return torch.randint(0, levels, (size,), generator=rng).to(torch.uint8)


def edge_sizes(group):
    """Around one group, two, and eight, which fill whole bytes; around a grain of threads."""
    edges = {0, 1, group, 2 * group, 8 * group, 16 * group}
    return sorted({e + d for e in edges for d in (-1, 0, 1) if e + d >= 0} | {997})


def test_groups_are_the_densest_of_at_most_eight_bits():
    for levels in ALL_LEVELS:
        size, bits = code_group(levels)
        assert levels**size <= 2**bits <= 256
        for other in range(1, 9):
            needed = (levels**other - 1).bit_length()
            if needed <= 8:
                assert (Fraction(bits, size), size) <= (Fraction(needed, other), other)
    assert [code_group(n) for n in (2, 3, 5, 6, 16, 17, 256)] == [
        *((1, 1), (5, 8), (3, 7), (3, 8), (1, 4), (1, 5), (1, 8)),
    ]


@pytest.mark.slow
def test_codes_come_back_at_every_level_and_group_edge(on_all, rng, same):
    for levels in ALL_LEVELS:
        for size in edge_sizes(code_group(levels)[0]):
            codes = draw_codes(rng, size, levels)
            packed = on_all(lambda c=codes, n=levels: kernels.pack_codes(c, n))
            assert packed.dtype == torch.uint8 and packed.shape == (packed_bytes(size, levels),)
            same(on_all(lambda p=packed, s=size, n=levels: kernels.unpack_codes(p, s, n)), codes)


@given(data=st.data(), levels=st.integers(2, 256))
def test_the_stream_is_that_of_whole_numbers(data, levels):
    """The specification against Python's own integers: the stream is one large number."""
    codes = data.draw(st.lists(st.integers(0, levels - 1), max_size=70))
    size, bits = code_group(levels)
    stream = 0
    for i in range(0, len(codes), size):
        group = sum(c * levels**k for k, c in enumerate(codes[i : i + size]))
        stream |= group << (i // size * bits)
    expected = stream.to_bytes(packed_bytes(len(codes), levels), "little")
    with kernels.use_backend("reference"):
        packed = kernels.pack_codes(torch.tensor(codes, dtype=torch.uint8), levels)
    assert bytes(packed.tolist()) == expected


def test_bytes_computed_by_hand(backend):
    # 5 levels: 1 + 2*5 + 3*25 = 86, 4 + 0*5 + 1*25 = 29 and 2, of 7 bits each:
    # 86 + 29 * 2^7 + 2 * 2^14 = 0x8ED6.
    fives = torch.tensor([1, 2, 3, 4, 0, 1, 2], dtype=torch.uint8)
    assert kernels.pack_codes(fives, 5).tolist() == [0xD6, 0x8E, 0x00]
    # 16 levels: the first code is the low half.
    halves = torch.tensor([1, 2, 15], dtype=torch.uint8)
    assert kernels.pack_codes(halves, 16).tolist() == [0x21, 0x0F]
    # 3 levels: five a byte, 0 + 1*3 + 2*9 + 2*27 + 1*81 = 156.
    threes = torch.tensor([0, 1, 2, 2, 1, 2], dtype=torch.uint8)
    assert kernels.pack_codes(threes, 3).tolist() == [156, 2]
    # 33 levels: one code in 6 bits, 32 + 1 * 2^6 + 3 * 2^12 = 0x3060.
    sixes = torch.tensor([32, 1, 3], dtype=torch.uint8)
    assert kernels.pack_codes(sixes, 33).tolist() == [0x60, 0x30, 0x00]
    assert kernels.unpack_codes(
        torch.tensor([0xD6, 0x8E, 0], dtype=torch.uint8), 7, 5
    ).tolist() == [
        *(1, 2, 3, 4, 0, 1, 2),
    ]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 997])
def test_two_levels_are_packed_bits(backend, rng, size):
    flags = torch.rand(size, generator=rng) > 0.5
    assert torch.equal(kernels.pack_codes(flags.to(torch.uint8), 2), kernels.pack_bits(flags))


def test_256_levels_are_the_bytes_themselves(backend, rng):
    codes = draw_codes(rng, 997, 256)
    assert torch.equal(kernels.pack_codes(codes, 256), codes)
    assert torch.equal(kernels.unpack_codes(codes, 997, 256), codes)


def test_unused_room_is_zero(backend):
    for levels in ALL_LEVELS:
        group = code_group(levels)[0]
        codes = torch.full((1,), levels - 1, dtype=torch.uint8)
        word = int.from_bytes(bytes(kernels.pack_codes(codes, levels).tolist()), "little")
        assert word == levels - 1
        full = torch.full((group + 1,), levels - 1, dtype=torch.uint8)
        packed = bytes(kernels.pack_codes(full, levels).tolist())
        bits = code_group(levels)[1]
        assert int.from_bytes(packed, "little") == levels**group - 1 + (levels - 1 << bits)


def test_matches_reference_on_threads(on_all, rng, threads):
    for levels in (2, 3, 5, 6, 16, 17, 256):
        codes = draw_codes(rng, BIG, levels)
        packed = on_all(lambda c=codes, n=levels: kernels.pack_codes(c, n))
        back = on_all(lambda p=packed, n=levels: kernels.unpack_codes(p, BIG, n))
        assert torch.equal(back, codes)


def test_any_bytes_are_unpacked_alike(on_all, rng):
    """A group may hold a number that no codes make; its digits are still those of the formula."""
    for levels in ALL_LEVELS:
        packed = torch.randint(0, 256, (packed_bytes(99, levels),), generator=rng).to(torch.uint8)
        codes = on_all(lambda p=packed, n=levels: kernels.unpack_codes(p, 99, n))
        assert (codes < levels).all() or code_group(levels)[0] == 1


def test_views_are_packed_in_logical_order(backend, rng):
    codes = draw_codes(rng, 60, 5).view(3, 4, 5)
    for view in (codes.transpose(0, 2), codes[:, ::2], codes[1:], codes[:1].expand(4, 4, 5)):
        expected = kernels.pack_codes(view.contiguous().flatten(), 5)
        assert torch.equal(kernels.pack_codes(view, 5), expected)
    packed = torch.cat([torch.zeros(1, dtype=torch.uint8), kernels.pack_codes(codes, 5)])
    assert torch.equal(kernels.unpack_codes(packed[1:], 60, 5), codes.flatten())


def test_a_code_that_is_no_code_is_refused(native, rng, threads):
    for levels in (2, 3, 5, 16, 17, 255):
        for size in (1, 9, 997, BIG):
            for place in {0, size // 2, size - 1}:
                codes = draw_codes(rng, size, levels)
                codes[place] = levels
                with pytest.raises(ValueError, match="code"):
                    kernels.pack_codes(codes, levels)
    codes = torch.full((9,), 255, dtype=torch.uint8)
    with pytest.raises(ValueError, match="code"):
        kernels.pack_codes(codes, 16)


def test_rejects(backend):
    codes = torch.zeros(7, dtype=torch.uint8)
    for levels in (-1, 0, 1, 257):
        with pytest.raises(ValueError, match=f"levels is {levels}, but packed codes have 2 to"):
            kernels.pack_codes(codes, levels)
        with pytest.raises(ValueError, match=f"levels is {levels}, but packed codes have 2 to"):
            kernels.unpack_codes(codes, 7, levels)
    with pytest.raises(TypeError, match=r"codes is torch.int8, but must be torch.uint8"):
        kernels.pack_codes(codes.to(torch.int8), 16)
    with pytest.raises(TypeError, match=r"packed is torch.int32, but must be torch.uint8"):
        kernels.unpack_codes(codes.to(torch.int32), 7, 16)
    with pytest.raises(ValueError, match="packed has 7 bytes for 7 codes, which need 4"):
        kernels.unpack_codes(codes, 7, 16)
    with pytest.raises(ValueError, match="numel is -1, but must not be negative"):
        kernels.unpack_codes(codes[:0], -1, 16)


def test_sizes_add_up_to_the_bits_of_whole_groups():
    sizes = np.arange(0, 100)
    for levels in ALL_LEVELS:
        group, bits = code_group(levels)
        expected = np.ceil(np.ceil(sizes / group) * bits / 8).astype(int)
        assert [packed_bytes(int(n), levels) for n in sizes] == expected.tolist()
