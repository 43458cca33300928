"""The float parts of evaluation: fused multiply-adds in a stated order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operands import FloatConvolution, takes
from ...scheme import Scheme
from .fake_quant_weight import quantize_per_channel

LANES = 16


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of float32 tensors, rounded once.

    The sum is made in float64 and rounded to odd, so that the second rounding, to float32, gives
    what one rounding would.
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    # What the sum lost (Knuth): it tells on which side of `total` the exact sum lies.
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    bits = total.view(torch.int64)
    towards = torch.where((lost > 0) == (total > 0), 1, -1)
    is_odd = (bits & 1) == 1
    odd = torch.where((lost == 0) | is_odd | ~total.isfinite(), bits, bits + towards)
    # An even sum has an odd neighbor on either side; the exact sum lies next to the chosen one.
    return odd.view(torch.float64).float()


def sum_lanes(x: Tensor) -> Tensor:
    """The sums of x [..., K]: lane l adds l, l + 16, ... from +0 on, then lanes pairwise."""
    rows = F.pad(x, [0, -x.shape[-1] % LANES]).unflatten(-1, (-1, LANES))
    lanes = torch.zeros_like(rows[..., 0, :])
    for row in rows.unbind(-2):
        lanes = lanes + row
    return _add_pairwise(lanes)


def _add_pairwise(lanes: Tensor) -> Tensor:
    while lanes.shape[-1] > 1:
        low, high = lanes.chunk(2, dim=-1)
        lanes = low + high
    return lanes[..., 0]


@takes(FloatConvolution)
def conv2d_deterministic(conv: FloatConvolution) -> Tensor:
    """A convolution, channels last; each output by fma over input channels, then taps by row."""
    x, w, bias, stride, padding, dilation, groups = conv
    top, left, bottom, right = padding
    x = F.pad(x, [left, right, top, bottom])
    channels, height, width = w.shape[1:]
    images, outputs, y, z = conv.shape.output_size
    total = torch.zeros(images, groups, outputs // groups, y, z, device=x.device)
    by_group = x.unflatten(1, (groups, channels))
    weights = w.unflatten(0, (groups, -1))
    for c in range(channels):
        for ky in range(height):
            for kx in range(width):
                rows = slice(
                    ky * dilation[0], ky * dilation[0] + (y - 1) * stride[0] + 1, stride[0]
                )
                columns = slice(
                    kx * dilation[1], kx * dilation[1] + (z - 1) * stride[1] + 1, stride[1]
                )
                read = by_group[:, :, c, None, rows, columns].expand_as(total)
                factor = weights[None, :, :, c, ky, kx, None, None].expand_as(total)
                total = fma(read, factor, total)
    total = total.flatten(1, 2)
    if bias.numel():
        total = total + bias[:, None, None]
    return total.contiguous(memory_format=torch.channels_last)


def linear(x: Tensor, w: Tensor, mask: Tensor, levels: int, bias: Tensor) -> Tensor:
    """x [N, K] times w [O, K]: sums by lanes of fmas, then fma(sum, ratio, bias).

    With levels the weights are the integers of their codes, and the ratio is 1 / scale; without
    (0), the weights are themselves, and it is 1.
    """
    if levels:
        codes, scale, zero = quantize_per_channel(w, mask, levels, Scheme.AFFINE)
        zero = torch.where(zero.isfinite(), zero, 0.0)
        factors, ratio = codes.float() + zero[:, None], torch.ones_like(scale) / scale
    else:
        factors, ratio = w, torch.ones(w.shape[0], device=w.device)
    pad = [0, -x.shape[1] % LANES]
    rows = F.pad(x, pad).unflatten(1, (-1, LANES))[:, None]
    columns = F.pad(factors, pad).unflatten(1, (-1, LANES))[None]
    lanes = torch.zeros(x.shape[0], w.shape[0], LANES, device=x.device)
    for row, column in zip(rows.unbind(2), columns.unbind(2), strict=True):
        lanes = fma(row.expand_as(lanes), column.expand_as(lanes), lanes)
    total = _add_pairwise(lanes)
    offset = bias if bias.numel() else torch.zeros_like(ratio)
    return fma(total, ratio.expand_as(total), offset.expand_as(total))
