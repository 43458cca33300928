"""Arguments of the operators of normalization: usual sums, and numbers of every kind."""

from itertools import cycle

import torch

from samples import draw, draw_words

# Around a program of 128 channels and a block of 256 threads.
CHANNELS = [1, 2, 127, 128, 129, 600]
COUNTS = [1, 2, 3, 12_544, 2**31 + 1]
MOMENTA = [0.1, 0.01, 0.5, 0.7, 0.0, 1.0]


def _doubles(rng, *shape):
    """Random bit patterns: every exponent, denormals, infinities and NaN of every payload."""
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=rng).view(torch.float64)


def _positive(rng, channels):
    return torch.rand(channels, generator=rng) + 0.01


def _sums(rng, channels, count):
    """Of as many values with a mean and a deviation of their own."""
    mean = 100 * torch.randn(channels, generator=rng, dtype=torch.float64)
    square = mean * mean + torch.randn(channels, generator=rng, dtype=torch.float64).exp()
    return count * torch.stack([mean, square])


def _sizes(sizes):
    """Channels and counts, each of them at least once."""
    return zip(sizes or [*CHANNELS, *CHANNELS], cycle(COUNTS), strict=False)


def folds(rng, dtype, sizes):
    momenta = cycle(MOMENTA)
    for channels, count in _sizes(sizes):
        usual = [draw(rng, channels) for _ in range(3)]
        given = (_sums(rng, channels, count), count, _positive(rng, channels))
        # Of one number: a variance that is not below zero by rounding alone.
        given[0][1, :1] *= 1 - 2.0**-50
        variance = _positive(rng, channels)
        yield *given, *usual, variance, next(momenta), 1e-5
        yield *given, None, None, None, None, next(momenta), 1e-3
        yield *given, usual[0], None, None, variance, next(momenta), 1e-12
        yield *given, None, usual[1], usual[2], None, next(momenta), 3.0
        words = [draw_words(rng, channels) for _ in range(5)]
        yield _doubles(rng, 2, channels), count, *words, next(momenta), 1e-5


def gradient_maps(rng, dtype, sizes):
    for channels, count in _sizes(sizes):
        sums = 1000 * torch.randn(2, channels, generator=rng, dtype=torch.float64)
        mean = torch.randn(channels, generator=rng, dtype=torch.float64)
        scale, weight = _positive(rng, channels), draw(rng, channels)
        # Those of a channel whose values are equal, and of one that reaches far.
        variance = _positive(rng, channels).double()
        variance[:1], variance[1:2] = 0.0, 1e30
        for factor in (weight, None):
            yield sums, mean, variance, count, scale, factor, 1e-5
            yield sums, mean, variance, None, scale, factor, 1e-3
        odd = [_doubles(rng, *shape) for shape in ((2, channels), (channels,), (channels,))]
        yield *odd, count, *(draw_words(rng, channels) for _ in range(2)), 1e-5


CASES = {"norm_fold_": folds, "norm_gradient_map": gradient_maps}


def _samples(op):
    """Those of usual numbers: the check of a registration holds no NaN for equal."""

    def of(dtype):
        *usual, _ = CASES[op](torch.Generator().manual_seed(1), dtype, [6])
        return usual

    return of


SAMPLES = {op: _samples(op) for op in CASES}
