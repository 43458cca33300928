"""Convolution of codes with quantized weights: integers, exact in whatever order they are summed.

Float64 holds every partial sum: codes have at most 4 bits and weights 7, so that 2^53 would take
more than 10^12 products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...scheme import Scheme
from ...shapes import ConvShape, accumulator_dtype
from .codes import unpack_codes
from .fake_quant_weight import quantize_per_channel
from .quantizer import make_quantizer

CODE_SLOTS = 16


def _integer_image(codes: Tensor, range: Tensor, shape: ConvShape, levels: int) -> Tensor:
    """The integers [N, C, H, W] of codes; the zero point is 0 where the range is not finite."""
    n, c, h, w = shape.input_size
    flat = unpack_codes(codes, n * c * h * w, CODE_SLOTS)
    images = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    zero_point = make_quantizer(range[0], range[1], levels, Scheme.AFFINE).zero_point
    return images.double() + _whole(zero_point)


def _whole(zero_point: Tensor) -> Tensor:
    """Zero points in float64, 0 where they are not finite."""
    return torch.where(zero_point.isfinite(), zero_point, 0.0).double()


def quant_conv2d_values(*args: Any) -> Tensor:
    """The values [N, O, H', W'], channels last: each integer times its channel's ratio."""
    acc, ratio = quant_conv2d(*args)
    return acc.float() * ratio[:, None, None]


def quant_conv2d(
    codes: Tensor,
    range: Tensor,
    levels: int,
    w: Tensor,
    mask: Tensor,
    weight_levels: int,
    input_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'], channels last, and the ratio [O] that makes values of them."""
    shape = ConvShape.of(input_size, w.shape, stride, padding, dilation, groups)
    x = _integer_image(codes, range, shape, levels)
    weight_codes, weight_scale, weight_zero = quantize_per_channel(
        w, mask, weight_levels, Scheme.AFFINE
    )
    zero = _whole(weight_zero)[:, None, None, None]
    top, left, bottom, right = padding
    acc = F.conv2d(
        F.pad(x, [left, right, top, bottom]),
        weight_codes.double() + zero,
        None,
        stride,
        0,
        dilation,
        groups,
    )
    dtype = accumulator_dtype(shape, levels, weight_levels)
    whole = acc.round().to(dtype).contiguous(memory_format=torch.channels_last)
    scale = make_quantizer(range[0], range[1], levels, Scheme.AFFINE).scale
    return whole, torch.ones_like(weight_scale) / (scale * weight_scale)
