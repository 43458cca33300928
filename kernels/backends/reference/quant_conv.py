"""Convolution of codes with quantized weights: integers, exact in whatever order they are summed.

Float64 holds every partial sum: codes and weights have at most 8 bits, so that 2^53 would take more
than 10^11 products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operands import CodesConvolution, takes
from ...scheme import Scheme
from ...shapes import accumulator_dtype
from .bits_and_counts import select_by_bits
from .codes import unpacked_activations
from .fake_quant_weight import quantize_per_channel
from .quantizer import codes, learned_quantizer, make_quantizer


def _whole(zero_point: Tensor) -> Tensor:
    """Zero points in float64, 0 where they are not finite."""
    return torch.where(zero_point.isfinite(), zero_point, 0.0).double()


def _integer_image(conv: CodesConvolution, zero_point: Tensor) -> Tensor:
    """The integers [N, C, H, W] of codes; the zero point is 0 where the range is not finite."""
    n, c, h, w = conv.input_size
    flat = unpacked_activations(conv.codes, n * c * h * w, conv.levels)
    return flat.view(n, h, w, c).permute(0, 3, 1, 2).double() + _whole(zero_point)


def _weight_integers(conv: CodesConvolution) -> tuple[Tensor, Tensor]:
    """The integers of the weights, float64, and the scale [O] of each channel.

    Where a weight of a channel is not finite its integer is that of the code 0, and the scale is
    NaN.
    """
    if conv.weight_scheme == Scheme.LEARNED:
        step, zero = conv.weight_steps[:, :, None, None, None]
        q = learned_quantizer(step, zero, conv.weight_levels)
        masked = (select_by_bits(conv.w, conv.mask) if conv.mask.numel() else conv.w).float()
        whole = codes(masked, q).nan_to_num(nan=0.0)
        finite = masked.isfinite().flatten(1).all(1)
        scale, zero = torch.where(finite, q.scale.flatten(), torch.nan), q.zero_point.flatten()
    else:
        whole, scale, zero = quantize_per_channel(
            conv.w, conv.mask, conv.weight_levels, conv.weight_scheme
        )
    return whole.double() + _whole(zero)[:, None, None, None], scale


def _convolve(conv: CodesConvolution) -> tuple[Tensor, Tensor]:
    q = make_quantizer(conv.range[0], conv.range[1], conv.levels, conv.scheme)
    weights, weight_scale = _weight_integers(conv)
    top, left, bottom, right = conv.padding
    acc = F.conv2d(
        F.pad(_integer_image(conv, q.zero_point), [left, right, top, bottom]),
        weights,
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
