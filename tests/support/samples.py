"""What the tests of the operators draw from: sizes, types, odd values, layouts, masks."""

import math

import pytest
import torch

import micronet_kernels as kernels

# Around bytes of bits, half, whole and double vectors, groups of four, blocks of 4096; a prime.
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 997, 4095, 4096, 4097]
BIG = 300_007  # a prime of many blocks and pieces, so that threads share it
HUGE = 2_100_013  # more than 4 MiB even at two bytes an element: written past the caches
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = DTYPES[1:]
LEVELS = [2, 3, 5, 16, 17, 32, 33, 256]
# Those of a range.
SCHEMES = [scheme for scheme in kernels.Scheme if scheme != kernels.Scheme.LEARNED]
INF, NAN = math.inf, math.nan
NOTHING = torch.empty(0, dtype=torch.uint8)

# Ranges that the network never has, and the quantizer must survive.
RANGES = [
    (0.0, 0.0),
    (-0.0, -0.0),
    (1.0, 1.0),  # all positive: widened to [0, 1]
    (0.5, 2.0),
    (-2.0, -0.5),  # all negative: widened to [-2, 0]
    (-1e-45, 1e-45),
    (0.0, 1e-39),
    (-3e38, 3e38),  # wider than float32
    (-INF, INF),
    (0.0, INF),
    (NAN, 1.0),
    (-1.0, NAN),
    (NAN, NAN),
    (3.0, -3.0),
]


def levels_for(scheme, levels):
    return max(levels, 3) if scheme.is_symmetric else levels


def draw(rng, *shape, dtype=torch.float32):
    """Normal numbers of a random width."""
    x = torch.randn(shape, generator=rng) * torch.rand((), generator=rng).mul(4).add(0.1)
    return x.to(dtype)


def draw_words(rng, *shape, dtype=torch.float32):
    """Random bit patterns: every exponent, denormals, infinities and NaN of every payload."""
    if dtype == torch.float32:
        low, high, word = -(2**31), 2**31, torch.int32
    else:
        low, high, word = -(2**15), 2**15, torch.int16
    return torch.randint(low, high, shape, generator=rng, dtype=torch.int64).to(word).view(dtype)


def every_half(dtype):
    """All 65536 numbers of a two-byte type."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def special(dtype=torch.float32):
    """Zeros, the ends of the denormals and of the normals, 1, the largest, infinities, NaN."""
    info = torch.finfo(dtype)
    denormals = [info.smallest_normal * info.eps, info.smallest_normal * (1 - info.eps)]
    positive = [0.0, *denormals, info.smallest_normal, 1.0, 1e38, info.max, INF]
    return torch.tensor([*positive, *(-v for v in positive), NAN], dtype=torch.float64).to(dtype)


def draw_ends(rng):
    return torch.randn(2, generator=rng).sort().values


def draw_mask(rng, shape, keep=0.6):
    """Packed bits, about `keep` of them 1."""
    return kernels.pack_bits(torch.rand(shape, generator=rng) < keep)


def fresh_state():
    """ema, range and step before the first update."""
    return torch.zeros(2), torch.zeros(2), torch.zeros(1, dtype=torch.int64)


def layouts(rng, dtype=torch.float32):
    image = draw(rng, 3, 5, 7, 6, dtype=dtype)
    return {
        "contiguous": image,
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "transposed view": image.transpose(1, 3),
        "one pixel, channels_last": image[:, :, :1, :1].to(memory_format=torch.channels_last),
        "misaligned slice": draw(rng, 130, dtype=dtype)[1:],
        "strided slice": draw(rng, 130, dtype=dtype)[::3],
        "expanded": draw(rng, 5, 1, dtype=dtype).expand(5, 33),
        "scalar": draw(rng, dtype=dtype),
        "empty": draw(rng, 0, 3, dtype=dtype),
    }


def with_quantizers(levels):
    """Mark a test to run for each of these numbers of levels, each scheme and each dtype."""

    def mark(test):
        for name, values in (("levels", levels), ("scheme", SCHEMES), ("dtype", DTYPES)):
            test = pytest.mark.parametrize(name, values)(test)
        return test

    return mark
