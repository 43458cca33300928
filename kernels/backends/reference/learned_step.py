"""Rounding to a learned step, and the gradient to that step in a fixed order of summation."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...operands import LearnedStep, takes
from .bits_and_counts import in_memory_order_of, memory_order, select_by_bits

# The order of the sums: blocks of 16 rows of 256, each column from the top down, then the columns
# pairwise, 128 + 128 to 1 + 1; the sums of the blocks are summed the same way until one is left.
LANES, ROWS = 256, 16
BLOCK = LANES * ROWS


class Steps(NamedTuple):
    """x as rows with one step each: [1, numel] in memory order, or [C, numel / C]."""

    x: Tensor
    inverse: Tensor
    zero_point: Tensor
    n: int


def _steps(of: LearnedStep) -> Steps:
    x, mask, step, zero_point, levels = of
    masked = (select_by_bits(x, mask) if mask.numel() else x).float()
    rows = memory_order(masked).view(step.numel(), -1)
    inverse = torch.ones_like(step) / step
    return Steps(rows, inverse[:, None], zero_point[:, None] + 0.0, levels - 1)


def _integers(s: Steps) -> Tensor:
    t = s.inverse * s.x
    code = torch.round(t - s.zero_point).clamp(0, s.n)
    return torch.where(s.x.isfinite(), code, torch.nan) + s.zero_point


@takes(LearnedStep)
def fake_quant_learned_step(of: LearnedStep, gradient_scale: float) -> Tensor:
    """i / S with S = 1 / step and i = clamp(rint(S*x - zero), 0, n) + zero, in x's dtype.

    The scale is for the gradient alone.
    """
    s = _steps(of)
    y = (_integers(s) / s.inverse).to(of.x.dtype)
    return in_memory_order_of(of.x, y.view(-1))


@takes(LearnedStep, at=1)
def fake_quant_learned_step_backward(
    grad: Tensor, of: LearnedStep, gradient_scale: float
) -> tuple[Tensor, Tensor]:
    """Gradient to x: 1 strictly inside and kept, else 0. To step [C] float32: the scaled row sums
    of grad * (i - S*x) strictly inside and of grad * i elsewhere.
    """
    s = _steps(of)
    t = s.inverse * s.x
    inside = (t > s.zero_point) & (t < s.zero_point + s.n)
    whole = _integers(s)
    rows = memory_order(grad).view(s.x.shape)
    terms = rows.float() * torch.where(inside, whole - t, whole)
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
