"""Arguments of the operators on convolutions of codes, their blocks, and evaluation in float."""

import torch

from samples import NOTHING

ENDS, STEP = torch.tensor([-0.5, 0.75]), torch.tensor([0.1, -3.0])
NONE = torch.empty(0)
# Of two images of 6 channels, 5 by 4, and three by three weights for four outputs in two groups.
SIZE, CONV = [2, 6, 5, 4], ([2, 6, 5, 4], [2, 1], [0, 1, 1, 1], [1, 1], 2)


def _spread(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def _codes():
    return torch.arange(120, dtype=torch.uint8)  # two codes a byte


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
        (_codes(), ENDS, 16, 0, _weights(dtype), _bits(), 16, 0, NONE, *CONV),
        (_codes(), ENDS, 5, 0, _weights(dtype), NOTHING, 128, 3, NONE, *CONV),
        (_bytes_of(), STEP, 17, 4, _weights(dtype), _bits(), 256, 4, _steps(), *CONV),
    ]


def _steps():
    return torch.stack([_spread(4).abs() + 0.01, torch.full((4,), -128.0)])


def _bytes_of():
    return torch.arange(240, dtype=torch.uint8) % 17


def _depthwise_gradients(dtype):
    """Of all that is wanted, from codes of half a byte; and of one alone, from bytes and floats."""
    numbers = _spread(6, 1, 3, 3), *CONV[:-1]
    grad = (100 * _spread(2, 6, 2, 4)).to(dtype).contiguous(memory_format=torch.channels_last)
    return [
        (grad, _codes(), _spread(16), *numbers, True, True),
        (grad, _bytes_of(), _spread(17), *numbers, False, True),
        (grad, _images(), NONE, *numbers, True, False),
    ]


SAMPLES = {
    "depthwise_gradient": _depthwise_gradients,
    "quant_conv2d": _convolutions,
    "quant_conv2d_values": _convolutions,
    "channel_moments": lambda d: [(_images(ACCUMULATORS[d]),)],
    "block_extremes": _read,
    "block_values": _read,
    "block_codes": lambda d: [*_read(d, ENDS, 16, 0), *_read(d, STEP, 17, 4)],
    "block_means": _blocks,
    "block_gradient_sums": lambda d: [(_images(d), *b, ENDS, 16, 0, NONE) for b in _blocks(d)],
    "block_gradient_kept": lambda d: [
        (_images(d), *b, STEP, 9, 4, _spread(2, 6)) for b in _blocks(d)
    ],
    "norm_gradient_": lambda d: [(_images(), _images(ACCUMULATORS[d]), _spread(3, 6))],
    "block_gradient": lambda d: [
        (_images(d), *b, NONE, 2, 0, _spread(2, 6), _spread(3, 6), d) for b in _blocks(d)
    ],
    "block_gate_gradient": lambda d: [
        (_images(d), *b, _spread(2, 6), STEP, 9, 4) for b in _blocks(d)
    ],
    "block_step_sums": lambda d: [
        (_images(d), *b, gate, STEP, 9, 4) for b in _blocks(d) for gate in (NONE, _spread(2, 6))
    ],
    "conv2d_deterministic": lambda d: [
        (_images(), _weights(), bias, *CONV[1:]) for bias in (NONE, ENDS.repeat(2))
    ],
    "linear_deterministic": lambda d: [
        (_spread(3, 20), _spread(7, 20), NOTHING, 0, NONE),
        (_spread(3, 20), _spread(7, 20), torch.ones(18, dtype=torch.uint8), 5, _spread(7)),
    ],
}
