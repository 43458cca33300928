"""Arguments of the operators on convolutions of codes, their blocks, and evaluation in float."""

import torch

from micronet_kernels import Scheme
from samples import NOTHING

ENDS = torch.tensor([-0.5, 0.75])
NONE = torch.empty(0)
# Of half a byte and of a byte each: the ends or the step, levels, scheme.
CODING = (ENDS, 16, Scheme.AFFINE)
LEARNED = (torch.tensor([0.01, -90.0]), 200, Scheme.LEARNED)
# Weights that have no steps of their own, and learned ones of four outputs.
AFFINE_WEIGHTS = (Scheme.AFFINE, NONE)
STEPS = torch.tensor([[0.01, 0.02, 0.03, 0.04], [-128.0, 0.0, -255.0, -9.0]])
# Of two images of 6 channels, 5 by 4, and three by three weights for four outputs in two groups.
SIZE, CONV = [2, 6, 5, 4], ([2, 6, 5, 4], [2, 1], [0, 1, 1, 1], [1, 1], 2)


def _spread(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def _codes(bytes=120):
    return torch.arange(bytes, dtype=torch.uint8)  # two codes a byte, or one in 240


def _weights(dtype=torch.float32):
    return _spread(4, 3, 3, 3).to(dtype)


def _bits():
    return torch.full((14,), 0b1011, dtype=torch.uint8)


def _images(dtype=torch.float32):
    flat = (100 * _spread(*SIZE)).to(dtype)
    return flat.contiguous(memory_format=torch.channels_last)


def _affine(dtype, function):
    return _images(dtype), 0.02 * _spread(6), _spread(6), function


ACCUMULATORS = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int32,
}


def _blocks(dtype):
    """One affine map for each function, of one type of accumulator."""
    return [_affine(ACCUMULATORS[dtype], function) for function in range(4)]


def _read(dtype, *rest):
    gate = _spread(2, 6)
    return [(*block, g, *rest) for block in _blocks(dtype) for g in (NONE, gate)]


def _convolutions(dtype):
    return [
        (_codes(), *CODING, _weights(dtype), _bits(), 16, *AFFINE_WEIGHTS, *CONV),
        (_codes(240), *LEARNED, _weights(dtype), NOTHING, 255, Scheme.SYMMETRIC, NONE, *CONV),
        (_codes(), *CODING, _weights(dtype), _bits(), 256, Scheme.LEARNED, STEPS, *CONV),
    ]


def _codings(dtype, *rest):
    """A gradient with each block; the gradient passes by one coding and by the other."""
    codings = (CODING, LEARNED, LEARNED, CODING)
    blocks = zip(_blocks(dtype), codings, strict=True)
    return [(_images(dtype), *block, *rest, *coding) for block, coding in blocks]


SAMPLES = {
    "quant_conv2d": _convolutions,
    "quant_conv2d_values": _convolutions,
    "channel_moments": lambda d: [(_images(ACCUMULATORS[d]),)],
    "block_extremes": _read,
    "block_values": _read,
    "block_codes": lambda d: _read(d, *CODING) + _read(d, *LEARNED)[:2],
    "block_means": _blocks,
    "block_gradient_sums": lambda d: [(*case, NONE) for case in _codings(d)],
    "block_gradient": lambda d: [
        (_images(d), *b, NONE, *CODING[1:], _spread(2, 6), _spread(3, 6), d) for b in _blocks(d)
    ],
    "block_gate_gradient": lambda d: _codings(d, _spread(2, 6)),
    "block_step_sums": lambda d: [(_images(d), *case, *LEARNED) for case in _read(d)],
    "conv2d_deterministic": lambda d: [
        (_images(), _weights(), bias, *CONV[1:]) for bias in (NONE, ENDS.repeat(2))
    ],
    "linear_deterministic": lambda d: [
        (_spread(3, 20), _spread(7, 20), NOTHING, 0, NONE),
        (_spread(3, 20), _spread(7, 20), torch.ones(18, dtype=torch.uint8), 5, _spread(7)),
    ],
}
