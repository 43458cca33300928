"""Weights: masked, then rounded to the range of each channel."""

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import Scheme
from ..reference.fake_quant_weight import masked_one_by_one, one_by_one
from .bits_and_counts import select_by_bits
from .launch import given, launch
from .quantizer import (
    dequantize,
    keeps,
    larger,
    load_kept,
    make_quantizer,
    narrow,
    quantize,
    smaller,
)

_LEARNED = tl.constexpr(int(Scheme.LEARNED))
_SYMMETRIC = tl.constexpr(int(Scheme.SYMMETRIC))

# (channels, columns) that a program takes at a time: depthwise kernels have rows of 9 or 25.
SHORT_ROWS = (32, 32)
LONG_ROWS = (1, 1024)


@triton.jit
def _keep_nan(extreme, nan):
    return tl.where(nan > 0, float("nan"), extreme)


@triton.jit
def _load_columns(w, mask, first, start, per_channel, some, COLUMNS: tl.constexpr):
    """COLUMNS weights of each channel from `start` on: where, which are there, and their values."""
    column = start + tl.arange(0, COLUMNS)[None, :]
    here = some & (column < per_channel)
    kept = keeps(mask, first + column, here)
    return first + column, here, load_kept(w, first + column, here, kept)


@triton.jit
def _extremes(w, mask, first, per_channel, some, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The least and the largest weight of each channel, NaN where one is."""
    lo = tl.full((ROWS, COLUMNS), float("inf"), tl.float32)
    hi = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    start = tl.zeros((), tl.int64)
    while start < per_channel:
        _, here, v = _load_columns(w, mask, first, start, per_channel, some, COLUMNS)
        lo = smaller(lo, tl.where(here, v, float("inf")))
        hi = larger(hi, tl.where(here, v, float("-inf")))
        start += COLUMNS
    # A minimum over threads drops NaN, so it goes by a flag of its own.
    nan = tl.max((lo != lo).to(tl.int32), axis=1)
    lo = _keep_nan(tl.min(tl.where(lo != lo, float("inf"), lo), axis=1), nan)
    return lo, _keep_nan(tl.max(tl.where(hi != hi, float("-inf"), hi), axis=1), nan)


@triton.jit(do_not_specialize=["levels"])
def fake_quant_per_channel_kernel(
    w,  # [channels, per_channel]
    mask,  # bits of w, or None
    steps,  # [2, channels]: steps and zero points, or None
    out,  # like w: codes or values
    scale_out,  # [channels]
    zero_out,  # [channels]
    channels,
    per_channel,
    levels,
    SCHEME: tl.constexpr,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    channel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    some = (channel < channels)[:, None]
    first = channel[:, None] * per_channel
    if SCHEME == _LEARNED:
        lo = tl.load(steps + channel, mask=channel < channels, other=1.0)
        hi = tl.load(steps + channels + channel, mask=channel < channels, other=0.0)
    else:
        lo, hi = _extremes(w, mask, first, per_channel, some, ROWS, COLUMNS)
    lo, hi, scale, zero, least, most = make_quantizer(lo, hi, levels, SCHEME)
    # Codes of SYMMETRIC are less the least, which the zero point takes back.
    base = least if CODES and SCHEME == _SYMMETRIC else tl.zeros_like(least)
    tl.store(zero_out + channel, zero + base, mask=channel < channels)
    scale_of_channel = scale
    scale = scale[:, None]
    zero = zero[:, None]
    lost = tl.zeros((ROWS, COLUMNS), tl.int32)
    start = tl.zeros((), tl.int64)
    while start < per_channel:
        at, here, v = _load_columns(w, mask, first, start, per_channel, some, COLUMNS)
        code = quantize(v, scale, zero, least, most)
        if SCHEME == _LEARNED:
            lost |= (v * 0.0 != 0.0).to(tl.int32)
        if CODES:
            whole = tl.where(code == code, code - base, 0.0).to(tl.int32)
            tl.store(out + at, whole.to(out.dtype.element_ty), mask=here)
        else:
            value = dequantize(code, scale, zero)
            tl.store(out + at, narrow(value, out.dtype.element_ty), mask=here)
        start += COLUMNS
    if SCHEME == _LEARNED:
        # A step does not see its weights as a range does: those that have no code take the scale.
        scale_of_channel = _keep_nan(scale_of_channel, tl.max(lost, axis=1))
    tl.store(scale_out + channel, scale_of_channel, mask=channel < channels)


def _per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int, out: Tensor, steps: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    channels, per_channel = w.shape[0], w.numel() // w.shape[0]
    scale, zero_point = (w.new_empty(channels, dtype=torch.float32) for _ in range(2))
    rows, columns = SHORT_ROWS if per_channel <= SHORT_ROWS[1] else LONG_ROWS
    operands = (w, given(mask), steps, out, scale, zero_point, channels, per_channel, levels)
    constants = {"SCHEME": scheme, "CODES": out.dtype != w.dtype}
    programs, tile = triton.cdiv(channels, rows), {"ROWS": rows, "COLUMNS": columns}
    launch(fake_quant_per_channel_kernel, programs, *operands, **constants, **tile)
    return out, scale, zero_point


def fake_quant_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the codes of the masked weights, with each channel's scale and zero point."""
    return _per_channel(w, mask, levels, scheme, torch.empty_like(w))


fake_quant_weights = partial(one_by_one, fake_quant_per_channel)
mask_gradients = partial(masked_one_by_one, select_by_bits)


def quantize_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int, steps: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the masked weights (0 for NaN), with each channel's scale and zero point.

    Those of SYMMETRIC are less code_min, which the zero point takes back. Learned ones need their
    steps [2, C].
    """
    dtype = torch.int8 if scheme == Scheme.DISTILLER_SYMMETRIC else torch.uint8
    return _per_channel(w, mask, levels, scheme, torch.empty_like(w, dtype=dtype), steps)
