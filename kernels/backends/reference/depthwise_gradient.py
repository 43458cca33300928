"""The gradients of a depthwise convolution, each sum in its stated order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operands import DepthwiseGradient, takes
from .codes import unpacked_activations
from .exact import fma


@takes(DepthwiseGradient)
def depthwise_gradient(d: DepthwiseGradient) -> tuple[Tensor, Tensor]:
    """The gradients to the images, in the type of `grad`, and to the weights; empty if not wanted.

    Products are added by fma. A sum over taps takes them row by row from 0 on; one over outputs
    takes the columns of a row from 0 on, then rows, then images in float64. What lies beside a row
    counts as zeros; rows outside the images are left out.
    """
    grad = d.grad.float()
    grad_x = _to_images(d, grad) if d.wants_x else grad.new_empty(0)
    grad_w = _to_weights(d, grad) if d.wants_w else grad.new_empty(0)
    return grad_x.to(d.grad.dtype), grad_w


def images(d: DepthwiseGradient) -> Tensor:
    """The float32 images [N, C, H, W] that were convolved."""
    if d.x.dtype != torch.uint8:
        return d.x
    n, c, h, w = d.input_size
    codes = unpacked_activations(d.x, n * c * h * w, d.table.numel())
    return d.table[codes.long()].view(n, h, w, c).permute(0, 3, 1, 2)


def _to_images(d: DepthwiseGradient, grad: Tensor) -> Tensor:
    total = torch.zeros(d.input_size, device=grad.device)
    total = total.contiguous(memory_format=torch.channels_last)
    for ky in range(d.w.shape[2]):
        y, row = _reached(d, 0, ky)
        is_output = (row >= 0) & (row < grad.shape[2])
        y, row = y[is_output], row[is_output]
        for kx in range(d.w.shape[3]):
            x, at = _reached(d, 1, kx)
            beside = (at < 0) | (at >= grad.shape[3])
            read = grad[:, :, row][:, :, :, at.clamp(0, grad.shape[3] - 1)]
            read = read.masked_fill(beside, 0.0)
            factor = d.w[:, 0, ky, kx, None, None].expand_as(read)
            place = (slice(None), slice(None), y[:, None], x[None])
            total[place] = fma(read, factor, total[place])
    return total


def _reached(d: DepthwiseGradient, axis: int, tap: int) -> tuple[Tensor, Tensor]:
    """The pixels of an axis that a tap meets, and the output of each, which may not exist."""
    at = torch.arange(d.input_size[2 + axis], device=d.grad.device)
    at = at + d.padding[axis] - tap * d.dilation[axis]
    pixels = torch.nonzero(at % d.stride[axis] == 0)[:, 0]
    return pixels, at[pixels] // d.stride[axis]


def _to_weights(d: DepthwiseGradient, grad: Tensor) -> Tensor:
    _, left, _, right = d.padding
    x = F.pad(images(d), [left, right, 0, 0])
    below, across = _below(d, 0) - d.padding[0], _below(d, 1)
    is_inside = (below >= 0) & (below < x.shape[2])
    lines = x[:, :, below.clamp(0, x.shape[2] - 1)]  # [N, C, rows, KH, W]
    sums = torch.zeros((*lines.shape[:4], d.w.shape[3]), device=grad.device)
    for column in range(grad.shape[3]):
        factor = grad[:, :, :, column, None, None].expand_as(sums)
        sums = fma(factor, lines[..., across[column]], sums)
    sums = sums.masked_fill(~is_inside[:, :, None], 0.0)
    total = torch.zeros_like(sums[:, :, 0])
    for row in sums.unbind(2):
        total = total + row
    over_images = torch.zeros(total.shape[1:], dtype=torch.float64, device=grad.device)
    for image in total:
        over_images += image
    return over_images.float().unsqueeze(1)


def _below(d: DepthwiseGradient, axis: int) -> Tensor:
    """The pixels [outputs, taps] of an axis, padding included, that each output reads."""
    outputs, taps = (torch.arange(t.shape[2 + axis], device=d.grad.device) for t in (d.grad, d.w))
    return outputs[:, None] * d.stride[axis] + taps * d.dilation[axis]
