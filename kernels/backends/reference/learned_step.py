"""Rounding to a learned step, and the gradient to that step in a fixed order of summation."""

import torch
from torch import Tensor

from ...operands import LearnedStep, takes
from .bits_and_counts import in_memory_order_of, memory_order, select_by_bits
from .quantizer import Quantizer, codes, is_inside, learned_quantizer, values

# The order of the sums: blocks of 16 rows of 256, each column from the top down, then the columns
# pairwise, 128 + 128 to 1 + 1; the sums of the blocks are summed the same way until one is left.
LANES, ROWS = 256, 16
BLOCK = LANES * ROWS


def _steps(of: LearnedStep) -> tuple[Tensor, Quantizer]:
    """x as rows with one quantizer each: [1, numel] in memory order, or [C, numel / C]."""
    x, mask, step, zero_point, levels = of
    masked = (select_by_bits(x, mask) if mask.numel() else x).float()
    rows = memory_order(masked).view(step.numel(), -1)
    return rows, learned_quantizer(step[:, None], zero_point[:, None], levels)


def learned_terms(x: Tensor, q: Quantizer) -> tuple[Tensor, Tensor]:
    """Where x lies inside, and what a gradient to the value of x is multiplied by for the step.

    i - S*x inside and i elsewhere, i being the integer.
    """
    inside, whole = is_inside(x, q), codes(x, q) + q.zero_point
    return inside, torch.where(inside, whole - q.scale * x, whole)


@takes(LearnedStep)
def fake_quant_learned_step(of: LearnedStep, gradient_scale: float) -> Tensor:
    """i / S with S = 1 / step and i = clamp(rint(S*x - zero), 0, n) + zero, in x's dtype.

    The scale is for the gradient alone.
    """
    x, q = _steps(of)
    return in_memory_order_of(of.x, values(codes(x, q), q).to(of.x.dtype).view(-1))


@takes(LearnedStep, at=1)
def fake_quant_learned_step_backward(
    grad: Tensor, of: LearnedStep, gradient_scale: float
) -> tuple[Tensor, Tensor]:
    """Gradient to x: 1 strictly inside and kept, else 0. To step [C] float32: the scaled row sums
    of grad * (i - S*x) strictly inside and of grad * i elsewhere.
    """
    x, q = _steps(of)
    inside, factors = learned_terms(x, q)
    rows = memory_order(grad).view(x.shape)
    terms = rows.float() * factors
    grad_x = in_memory_order_of(of.x, torch.where(inside, rows, 0.0).view(-1))
    if of.mask.numel():
        grad_x = select_by_bits(grad_x, of.mask)
    scale = torch.tensor(gradient_scale, dtype=torch.float32, device=grad.device)
    return grad_x, ordered_sum(terms) * scale


def ordered_sum(rows: Tensor) -> Tensor:
    """Float32 sums of rows [C, N] in the order stated above, [C]; an empty row sums to 0."""
    while True:
        channels, count = rows.shape
        blocks = max(-(-count // BLOCK), 1)
        padded = torch.nn.functional.pad(rows, (0, blocks * BLOCK - count))
        tiles = padded.view(channels, blocks, ROWS, LANES)
        lanes = torch.zeros_like(tiles[:, :, 0])
        for row in range(ROWS):
            lanes = lanes + tiles[:, :, row]
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
        rows = lanes.squeeze(-1)
        if blocks == 1:
            return rows.flatten()
