"""Convolution of 4-bit codes with quantized weights: an exact integer forward pass."""

from typing import Any

import torch
from torch import Tensor

from .. import checks_conv
from ..shapes import ConvShape, accumulator_dtype
from .registry import define, empty

_ARGUMENTS = (
    "(Tensor codes, Tensor range, int levels, Tensor w, Tensor mask, int weight_levels,"
    " int[] input_size, int[] stride, int[] padding, int[] dilation, int groups)"
)


def _shape(args: tuple[Any, ...]) -> ConvShape:
    w, (input_size, stride, padding, dilation, groups) = args[3], args[6:]
    return ConvShape.of(input_size, w.shape, stride, padding, dilation, groups)


def _channels_last(like: Tensor, shape: ConvShape, dtype: torch.dtype) -> Tensor:
    fresh = empty(like, shape.output_size, dtype)
    return fresh.contiguous(memory_format=torch.channels_last)


def _fake_sums(*args: Any) -> tuple[Tensor, Tensor]:
    codes, levels, w, weight_levels = args[0], args[2], args[3], args[5]
    shape = _shape(args)
    dtype = accumulator_dtype(shape, levels, weight_levels)
    return _channels_last(codes, shape, dtype), empty(codes, (w.shape[0],), torch.float32)


define(f"quant_conv2d{_ARGUMENTS} -> (Tensor, Tensor)", checks_conv.quant_conv2d, _fake_sums)
define(
    f"quant_conv2d_values{_ARGUMENTS} -> Tensor",
    checks_conv.quant_conv2d,
    lambda *args: _channels_last(args[0], _shape(args), torch.float32),
)

_OP = torch.ops.micronet
