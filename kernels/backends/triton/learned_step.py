"""Rounding to a learned step, and the gradient to that step in a fixed order of summation."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import LearnedStep, takes
from ..reference.learned_step import LANES, ROWS
from .launch import given, launch
from .quantizer import dequantize, keeps, load_kept, narrow, quantize, scale_of_step, widen

# Elements that a program of the forward pass takes.
TILE = 2048
# A block of sums has 256 lanes: four for each thread of two warps.
SUMS = {"ROWS": ROWS, "LANES": LANES, "num_warps": 2}


@triton.jit
def _load_steps(step, zero_point, channel, levels):
    """Inverse step, zero point and largest code of a channel."""
    inverse = scale_of_step(tl.load(step + channel))
    return inverse, tl.load(zero_point + channel) + 0.0, (levels - 1).to(tl.float32)


@triton.jit(do_not_specialize=["levels"])
def learned_step_kernel(
    x,  # [channels, per_channel]
    mask,  # bits of x, or None
    step,  # [channels]
    zero_point,  # [channels]
    y,  # like x
    per_channel,
    tiles,  # programs of a channel
    levels,
    TILE: tl.constexpr,
) -> None:
    channel = tl.program_id(0).to(tl.int64) // tiles
    column = tl.program_id(0).to(tl.int64) % tiles * TILE + tl.arange(0, TILE)
    element = channel * per_channel + column
    here = column < per_channel
    inverse, zero, n = _load_steps(step, zero_point, channel, levels)
    v = load_kept(x, element, here, keeps(mask, element, here))
    value = dequantize(quantize(v, inverse, zero, 0.0, n), inverse, zero)
    tl.store(y + element, narrow(value, y.dtype.element_ty), mask=here)


@triton.jit
def _add_halves(lanes, HALF: tl.constexpr):
    low, high = tl.split(tl.permute(tl.reshape(lanes, (2, HALF)), (1, 0)))
    return low + high


@triton.jit
def _sum_lanes(lanes):
    """The sum [1] of 256 lanes: 128 + 128, 64 + 64, ... 1 + 1, which tl.sum does not promise."""
    for i in tl.static_range(8):
        lanes = _add_halves(lanes, 128 >> i)
    return lanes


@triton.jit(do_not_specialize=["levels"])
def learned_step_backward_kernel(
    grad,  # like x
    x,  # [channels, per_channel]
    mask,  # bits of x, or None
    step,  # [channels]
    zero_point,  # [channels]
    grad_x,  # like x
    sums,  # [channels, blocks]: of the terms of the gradient to the step, times factor
    per_channel,
    blocks,
    levels,
    factor,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    channel = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    inverse, zero, n = _load_steps(step, zero_point, channel, levels)
    lanes = tl.zeros((LANES,), tl.float32)
    for row in tl.range(ROWS):
        column = (block * ROWS + row) * LANES + tl.arange(0, LANES)
        element = channel * per_channel + column
        here = column < per_channel
        kept = keeps(mask, element, here)
        v = load_kept(x, element, here, kept)
        g = widen(tl.load(grad + element, mask=here, other=0.0))
        t = inverse * v
        inside = (t > zero) & (t < zero + n)
        whole = quantize(v, inverse, zero, 0.0, n) + zero
        term = g * tl.where(inside, whole - t, whole)
        lanes = lanes + tl.where(here, term, 0.0)
        passed = tl.where(inside & kept, g, 0.0)
        tl.store(grad_x + element, narrow(passed, grad_x.dtype.element_ty), mask=here)
    tl.store(sums + tl.program_id(0) + tl.arange(0, 1), _sum_lanes(lanes) * factor)


@triton.jit
def sum_blocks_kernel(
    rows, sums, count, blocks, factor, ROWS: tl.constexpr, LANES: tl.constexpr
) -> None:
    """sums [channels, blocks], times factor, of rows [channels, count]."""
    channel = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    lanes = tl.zeros((LANES,), tl.float32)
    for row in tl.range(ROWS):
        column = (block * ROWS + row) * LANES + tl.arange(0, LANES)
        here = column < count
        lanes = lanes + tl.load(rows + channel * count + column, mask=here, other=0.0)
    tl.store(sums + tl.program_id(0) + tl.arange(0, 1), _sum_lanes(lanes) * factor)


@takes(LearnedStep)
def fake_quant_learned_step(of: LearnedStep, gradient_scale: float) -> Tensor:
    """i / S with S = 1 / step and i = clamp(rint(S*x - zero), 0, n) + zero, in x's dtype.

    The scale is for the gradient alone.
    """
    y, channels = torch.empty_like(of.x), of.step.numel()
    per_channel = of.x.numel() // channels
    tiles = triton.cdiv(per_channel, TILE)
    operands = (of.x, given(of.mask), of.step, of.zero_point, y, per_channel, tiles, of.levels)
    launch(learned_step_kernel, channels * tiles, *operands, TILE=TILE)
    return y


def _blocks(count: int) -> int:
    return max(triton.cdiv(count, ROWS * LANES), 1)


@takes(LearnedStep, at=1)
def fake_quant_learned_step_backward(
    grad: Tensor, of: LearnedStep, gradient_scale: float
) -> tuple[Tensor, Tensor]:
    """Gradient to x: 1 strictly inside and kept, else 0. To step [C] float32: the scaled row sums
    of grad * (i - S*x) strictly inside and of grad * i elsewhere.
    """
    grad_x, per_channel = torch.empty_like(of.x), of.x.numel() // of.step.numel()
    blocks = _blocks(per_channel)
    sums = of.step.new_empty((of.step.numel(), blocks))
    tensors = (grad, of.x, given(of.mask), of.step, of.zero_point, grad_x, sums)
    numbers = (per_channel, blocks, of.levels, gradient_scale if blocks == 1 else 1.0)
    launch(learned_step_backward_kernel, sums.numel(), *tensors, *numbers, **SUMS)
    return grad_x, _sum_rows(sums, gradient_scale).flatten()


def _sum_rows(rows: Tensor, scale: float) -> Tensor:
    """Scaled sums [C, 1] of rows [C, N]; where N is 1 they are scaled already."""
    while rows.shape[1] > 1:
        channels, count = rows.shape
        blocks = _blocks(count)
        sums = rows.new_empty((channels, blocks))
        operands = (rows, sums, count, blocks, scale if blocks == 1 else 1.0)
        launch(sum_blocks_kernel, sums.numel(), *operands, **SUMS)
        rows = sums
    return rows
