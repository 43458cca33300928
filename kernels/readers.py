"""What reads images, whether they wait for their reader or not: codes, extremes, a check."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import FLOATS
from .lazy.block import Block
from .lazy.convolution import Learned, QuantizedInput
from .lazy.pending import PendingTensor
from .lazy.tensor import block_of
from .lazy.tracing import is_eager
from .operands import Coding
from .ops.registry import dense
from .scheme import Scheme
from .shapes import is_channels_last

_OP = torch.ops.micronet
# An average's ends, its range and its count of batches.
_STATE = ((2, torch.float32), (2, torch.float32), (1, torch.int64))


def quantize_input(x: Tensor, range: Tensor, levels: int) -> QuantizedInput:
    """The codes of images x [N, C, H, W], of any float type, under range [2].

    A gradient to their values goes to x: 1 where x lies inside the range, else 0; x itself is not
    kept. Raises ValueError for levels, TypeError for a dtype.
    """
    # The range moves on with the next batch, these codes do not.
    coding = Coding(range.detach().clone(), levels, int(Scheme.AFFINE))
    block = block_of(x)
    if block is not None:
        return QuantizedInput(x, block.codes(coding), coding, block, block.size, is_block=True)
    codes, passes, _ = _OP.quantize_per_tensor.default(_plain_images(x), *coding)
    return QuantizedInput(x, codes, coding, passes, x.shape)


def quantize_input_by_step(
    x: Tensor, zero_point: Tensor, levels: int, learned: Learned
) -> QuantizedInput:
    """The codes of images x [N, C, H, W], of any float type, by a learned step.

    zero_point is [1], a whole number. A gradient to the values goes to x strictly between the
    lowest and the highest integer, and to the parameters; x is kept unless it waits for its reader,
    whose integers then make it again. Where a value is not finite, all that follows is NaN. Raises
    as `quantize_input`.
    """
    block = block_of(x)
    rounded = _block_of_values(x) if block is None else block
    # Until there is a zero point there is no value either.
    step = learned.step.detach() + (rounded.poison() + zero_point * 0.0)
    coding = Coding(torch.cat([step, zero_point]), levels, int(Scheme.LEARNED))
    is_block = block is not None
    return QuantizedInput(
        x, rounded.codes(coding), coding, rounded, rounded.size, learned, is_block
    )


def extremes(x: Tensor) -> Tensor:
    """The least and the largest value [2] of images, both NaN where one is; without a gradient."""
    block = block_of(x)
    if block is not None:
        return block.extremes()
    values = x.memory() if isinstance(x, PendingTensor) else x.detach()
    if not (is_eager(values) and values.numel() and values.dtype in FLOATS):
        return torch.stack(torch.aminmax(values)).float()
    # An average that forgets all before it. torch's own takes several times as long, and twenty
    # times with channels last.
    ends, range, step = (values.new_zeros(n, dtype=t) for n, t in _STATE)
    _OP.update_range_.default(dense(values), ends, range, step, 0.0)
    return ends


def is_finite(x: Tensor) -> bool:
    """Whether every value of images is finite, so that codes stand for them; waits for the device.

    Codes have none for NaN and infinity.
    """
    block = block_of(x)
    return block.is_finite() if block is not None else bool(torch.isfinite(extremes(x)).all())


def _block_of_values(x: Tensor) -> Block:
    """Images as a block of their own."""
    values = _plain_images(x).float()
    ones = torch.ones(x.shape[1], dtype=torch.float32, device=x.device)
    return Block(values, ones, None, is_channels_last(x))


def _plain_images(x: Tensor) -> Tensor:
    x = x.memory() if isinstance(x, PendingTensor) else x.detach()
    return x.contiguous(memory_format=torch.channels_last)
