"""Convolution of codes with quantized weights: integers, exact in whatever order they are summed.

Float64 holds every partial sum: codes have at most 4 bits and weights 7, so that 2^53 would take
more than 10^12 products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operands import CodesConvolution, takes
from ...scheme import Scheme
from ...shapes import accumulator_dtype
from .codes import unpack_codes
from .fake_quant_weight import quantize_per_channel
from .quantizer import make_quantizer

CODE_SLOTS = 16


def _whole(zero_point: Tensor) -> Tensor:
    """Zero points in float64, 0 where they are not finite."""
    return torch.where(zero_point.isfinite(), zero_point, 0.0).double()


def _integer_image(conv: CodesConvolution, zero_point: Tensor) -> Tensor:
    """The integers [N, C, H, W] of codes; the zero point is 0 where the range is not finite."""
    n, c, h, w = conv.input_size
    flat = unpack_codes(conv.codes, n * c * h * w, CODE_SLOTS)
    return flat.view(n, h, w, c).permute(0, 3, 1, 2).double() + _whole(zero_point)


def _convolve(conv: CodesConvolution) -> tuple[Tensor, Tensor]:
    q = make_quantizer(conv.range[0], conv.range[1], conv.levels, Scheme.AFFINE)
    weight_codes, weight_scale, weight_zero = quantize_per_channel(
        conv.w, conv.mask, conv.weight_levels, Scheme.AFFINE
    )
    top, left, bottom, right = conv.padding
    acc = F.conv2d(
        F.pad(_integer_image(conv, q.zero_point), [left, right, top, bottom]),
        weight_codes.double() + _whole(weight_zero)[:, None, None, None],
        None,
        conv.stride,
        0,
        conv.dilation,
        conv.groups,
    )
    dtype = accumulator_dtype(conv.shape, conv.levels, conv.weight_levels)
    whole = acc.round().to(dtype).contiguous(memory_format=torch.channels_last)
    return whole, torch.ones_like(weight_scale) / (q.scale * weight_scale)


@takes(CodesConvolution)
def quant_conv2d(conv: CodesConvolution) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'], channels last, and the ratio [O] that makes values of them."""
    return _convolve(conv)


@takes(CodesConvolution)
def quant_conv2d_values(conv: CodesConvolution) -> Tensor:
    """The values [N, O, H', W'], channels last: each integer times its channel's ratio."""
    acc, ratio = _convolve(conv)
    return acc.float() * ratio[:, None, None]
