"""Arguments of convolutions and blocks at the edges of the Triton kernels' tiles."""

import math
from itertools import chain

import torch

import conv_samples
import micronet_kernels as kernels
from micronet_kernels.scheme import HALF_BYTE_LEVELS, Scheme
from samples import NAN, NOTHING, draw, draw_ends, draw_mask

# (images, channels, height, width), outputs, kernel, (stride, dilation), padding, groups: around
# tiles of 64 pixels and outputs, of 32 products, and of 16 pixels and 64 channels by taps.
CONVOLUTIONS = [
    ((1, 33, 5, 13), 65, 1, (1, 1), [0, 0, 0, 0], 1),
    ((1, 64, 4, 8), 64, 1, (2, 1), [0, 0, 0, 0], 1),
    ((1, 6, 9, 7), 10, 3, (2, 1), [0, 0, 1, 1], 2),
    ((1, 5, 8, 8), 3, 3, (1, 2), [2, 2, 2, 2], 1),
    ((1, 65, 5, 4), 65, 3, (1, 1), [1, 1, 1, 1], 65),
    ((2, 7, 6, 5), 7, 5, (2, 1), [1, 2, 2, 2], 7),
]
# The same of the kernel in float: around tiles of 32 pixels and of 16 outputs.
FLOAT_CONVOLUTIONS = [
    ((1, 3, 3, 11), 17, 1, (1, 1), [0, 0, 0, 0], 1),
    ((2, 16, 4, 8), 16, 1, (2, 1), [0, 0, 0, 0], 1),
    ((1, 6, 9, 7), 10, 3, (2, 1), [0, 0, 1, 1], 2),
    ((1, 5, 8, 8), 3, 3, (1, 2), [2, 2, 2, 2], 1),
    ((1, 17, 4, 8), 17, 3, (1, 1), [1, 1, 1, 1], 17),
    ((2, 7, 6, 5), 7, 5, (2, 1), [1, 2, 2, 2], 7),
]
# Of each: levels and scheme of the input, then of the weights. Codes of half a byte and of a byte,
# and weights that signed bytes hold or do not, as products and depthwise.
PRECISIONS = [
    (16, Scheme.AFFINE, 16, Scheme.AFFINE),
    (256, Scheme.AFFINE, 256, Scheme.AFFINE),
    (16, Scheme.AFFINE, 256, Scheme.LEARNED),
    (200, Scheme.LEARNED, 255, Scheme.SYMMETRIC),
    (256, Scheme.AFFINE, 256, Scheme.AFFINE),
    (5, Scheme.AFFINE, 128, Scheme.LEARNED),
]


def convolutions(rng, dtype, sizes, numbers=None):
    yield from conv_samples.SAMPLES["quant_conv2d"](dtype)
    for number in [] if sizes else numbers or range(len(CONVOLUTIONS)):
        size, outputs, side, (stride, dilation), padding, groups = CONVOLUTIONS[number]
        levels, scheme, weight_levels, weight_scheme = PRECISIONS[number]
        flat = torch.randint(levels, (torch.Size(size).numel(),), generator=rng, dtype=torch.uint8)
        w = draw(rng, outputs, size[1] // groups, side, side, dtype=dtype)
        # Whole tiles of weights that are zero, all of a channel, and one that is no number.
        w[:, : max(w.shape[1] - 1, 1)] *= (
            torch.rand(w.shape[:1], generator=rng).gt(0.3).view(-1, 1, 1, 1)
        )
        w[0], mask = 0.0, NOTHING if number % 2 else draw_mask(rng, w.shape)
        if number == 3:
            w[1, 0, 0, 0] = NAN
        coding = _coding(rng, levels, scheme)
        if number == 4:
            coding[0][1] = NAN
        steps = _steps(rng, outputs, weight_levels) if weight_scheme == Scheme.LEARNED else none()
        weights = (w, mask, weight_levels, weight_scheme, steps)
        geometry = ([stride] * 2, padding, [dilation] * 2, groups)
        packed = kernels.pack_codes(flat, 16) if levels <= HALF_BYTE_LEVELS else flat
        yield packed, *coding, *weights, list(size), *geometry


def values_of_convolutions(rng, dtype, sizes):
    """The sums are those of the other operator; channels of products and depthwise, and NaN."""
    return convolutions(rng, dtype, sizes, numbers=(0, 3, 4))


def _coding(rng, levels, scheme):
    """What codes are made from: ends, or a step and a zero point."""
    if scheme != Scheme.LEARNED:
        return draw_ends(rng), levels, scheme
    return torch.tensor([2.0 / levels, float(-(levels // 2))]), levels, scheme


def _steps(rng, outputs, levels):
    """Steps and zero points of weights [2, outputs]."""
    zero = -torch.randint(levels, (outputs,), generator=rng).float()
    return torch.stack([(torch.rand(outputs, generator=rng) + 0.05) * 4 / levels, zero])


# Around tiles of 64 channels, 16 positions, 512 rows and 1024 elements.
BLOCKS = [(2, 65, 3, 7), (1, 2, 26, 20), (3, 64, 1, 1)]


def _images(rng, size, dtype=torch.float32):
    return (100 * torch.randn(size, generator=rng)).to(dtype).contiguous(memory_format=LAST)


LAST = torch.channels_last


def _accumulators(rng, dtype, sizes):
    """Accumulators with an affine map and a function; the sizes of images and channels."""
    for number, size in enumerate(BLOCKS[:1] if sizes else BLOCKS):
        # The interpreter takes seconds for many positions, which do not meet in a function: one
        # function for each type there, as for few sizes, and else two; the samples have all of
        # them.
        is_one = sizes or math.prod(size[2:]) > 512
        two = (1, 3) if number else (0, 2)
        for function in [1 if dtype == torch.float32 else 2] if is_one else two:
            acc = _images(rng, size, conv_samples.ACCUMULATORS[dtype])
            m, b = 0.03 * draw(rng, size[1]), draw(rng, size[1])
            yield (acc, m, b, function), size[:2]


def blocks_with(name, *rest):
    """Cases of an operator on blocks; each of `rest` makes arguments for [N, C] and a dtype."""

    def cases(rng, dtype, sizes):
        yield from conv_samples.SAMPLES[name](dtype)
        for affine, gate_size in _accumulators(rng, dtype, sizes):
            made = (make(rng, gate_size, dtype) for make in rest)
            yield *affine, *chain.from_iterable(made)

    return cases


def gradients_with(name, *rest):
    plain = blocks_with(name, *rest)
    count = len(conv_samples.SAMPLES[name](torch.float32))

    def cases(rng, dtype, sizes):
        for number, arguments in enumerate(plain(rng, dtype, sizes)):
            is_sample = number < count
            grad = () if is_sample else (_images(rng, arguments[0].shape, dtype),)
            yield *grad, *arguments

    return cases


def gate(rng, size, dtype):
    return (draw(rng, *size),)


def coding(rng, size, dtype):
    """One of those of the convolutions' inputs."""
    levels, scheme, *_ = PRECISIONS[int(torch.randint(len(PRECISIONS), (), generator=rng))]
    return _coding(rng, levels, scheme)


def learned(rng, size, dtype):
    return _coding(rng, 200, Scheme.LEARNED)


def everywhere(rng, size, dtype):
    """No range, and no gradient of means."""
    return none(), 2, Scheme.AFFINE, none()


def none():
    return torch.empty(0)


def factors(rng, size, dtype):
    return (draw(rng, 3, size[1]),)


def own_dtype(rng, size, dtype):
    return (dtype,)


def moments(rng, dtype, sizes):
    yield from conv_samples.SAMPLES["channel_moments"](dtype)
    for (acc, *_), _ in _accumulators(rng, dtype, sizes):
        yield (acc,)


def float_convolutions(rng, dtype, sizes):
    yield from conv_samples.SAMPLES["conv2d_deterministic"](dtype)
    for case in [] if sizes else FLOAT_CONVOLUTIONS:
        size, outputs, side, (stride, dilation), padding, groups = case
        w = draw(rng, outputs, size[1] // groups, side, side)
        bias = draw(rng, outputs) if stride == 1 else torch.empty(0)
        geometry = ([stride] * 2, padding, [dilation] * 2, groups)
        yield _images(rng, size), w, bias, *geometry


def linears(rng, dtype, sizes):
    yield from conv_samples.SAMPLES["linear_deterministic"](dtype)
    for depth, outputs in [] if sizes else [(1, 15), (15, 16), (16, 17), (17, 1), (130, 3)]:
        x, w, bias = draw(rng, 3, depth), draw(rng, outputs, depth), draw(rng, outputs)
        yield x, w, NOTHING, 0, bias
        yield x, w, draw_mask(rng, w.shape), 16, torch.empty(0)
