"""Convolution of codes with quantized weights: an exact integer forward pass."""

import torch
from torch import Tensor

from ..checks import (
    check,
    check_codes,
    check_order,
    check_same_device,
    check_sizes,
    check_weights,
)
from ..operands import CodesConvolution, schema_of, takes
from ..scheme import Scheme, check_quantizer
from ..shapes import accumulator_dtype
from .registry import define, empty

# Whose codes and zero points give the integers that are summed. A learned zero point lies in
# [1 - levels, 0], which nothing here reads: it would wait for the device.
_OF_CODES = Scheme.AFFINE, Scheme.LEARNED
_OF_WEIGHTS = Scheme.AFFINE, Scheme.SYMMETRIC, Scheme.LEARNED


def _check_scheme(name: str, levels: int, scheme: int, known: tuple[Scheme, ...]) -> None:
    check_quantizer(levels, scheme)
    if scheme not in known:
        names = " or ".join(one.name for one in known)
        raise ValueError(f"{name} is {Scheme(scheme).name}, but must be {names}")


@takes(CodesConvolution)
def _check(c: CodesConvolution) -> None:
    """The integer sums must fit 32 bits."""
    _check_scheme("scheme", c.levels, c.scheme, _OF_CODES)
    _check_scheme("weight_scheme", c.weight_levels, c.weight_scheme, _OF_WEIGHTS)
    check_sizes("input_size", c.input_size, 4, 1)
    check_sizes("stride", c.stride, 2, 1)
    check_sizes("padding", c.padding, 4, 0)
    check_sizes("dilation", c.dilation, 2, 1)
    n, channels, height, width = c.input_size
    check_codes(c.codes, n * channels * height * width, c.levels)
    check("range", c.range, torch.float32, (2,))
    check_weights(c.w, c.mask)
    if c.w.dim() != 4:
        raise ValueError(f"w has shape {list(c.w.shape)}, but must have [out, in, height, width]")
    if c.groups < 1:
        raise ValueError(f"groups is {c.groups}, but must be positive")
    learned = c.weight_scheme == Scheme.LEARNED
    check("weight_steps", c.weight_steps, torch.float32, (2, c.w.shape[0]) if learned else (0,))
    check_order("weight_steps", c.weight_steps)
    for name, other in (("range", c.range), ("w", c.w), ("weight_steps", c.weight_steps)):
        check_same_device(name, other, c.codes)
    accumulator_dtype(c.shape, c.levels, c.weight_levels)


def _channels_last(c: CodesConvolution, dtype: torch.dtype) -> Tensor:
    fresh = empty(c.codes, c.shape.output_size, dtype)
    return fresh.contiguous(memory_format=torch.channels_last)


@takes(CodesConvolution)
def _fake_sums(c: CodesConvolution) -> tuple[Tensor, Tensor]:
    dtype = accumulator_dtype(c.shape, c.levels, c.weight_levels)
    return _channels_last(c, dtype), empty(c.codes, (c.w.shape[0],), torch.float32)


@takes(CodesConvolution)
def _fake_values(c: CodesConvolution) -> Tensor:
    return _channels_last(c, torch.float32)


_CONVOLUTION = schema_of(CodesConvolution)
define(f"quant_conv2d({_CONVOLUTION}) -> (Tensor, Tensor)", _check, _fake_sums)
define(f"quant_conv2d_values({_CONVOLUTION}) -> Tensor", _check, _fake_values)
