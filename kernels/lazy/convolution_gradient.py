"""The backward pass of a convolution over the values that its codes stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operands import Coding
from ..scheme import HALF_BYTE_LEVELS
from .convolution import ConvCall

_OP = torch.ops.micronet
# The weights' gradient of a pointwise convolution is faster as a product of matrices than as a
# convolution of torch where the product has many columns (0.5 to 0.9 times the time from 64
# channels on, 1.1 to 2 times below), or so few rows that what the convolution prepares takes
# longer. EfficientNet-B1, batch 16 at 224x224, two cores with AVX-512.
_MANY_CHANNELS, _FEW_PIXELS = 64, 4096
# The gradients to x and to w, None where not wanted.
Gradients = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class StoredImages:
    """Images as codes.

    Attributes:
        codes: uint8, channels last; two a byte up to 16 levels, else a byte each.
        coding: what they stand for.
        size: [N, C, H, W].
    """

    codes: Tensor
    coding: Coding
    size: torch.Size

    def values(self, dtype: torch.dtype) -> Tensor:
        """The images [N, C, H, W], channels last."""
        n, c, h, w = self.size
        flat = self._decoded(self.codes, self.size.numel(), dtype)
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)

    def table(self) -> Tensor:
        """The value of every code, [levels], float32."""
        levels = self.coding.levels
        every = torch.arange(levels, dtype=torch.uint8)
        if levels <= HALF_BYTE_LEVELS:
            every = F.pad(every, [0, levels % 2])
            every = every[::2] | every[1::2] << 4
        return self._decoded(every.to(self.codes.device), levels, torch.float32)

    def _decoded(self, codes: Tensor, numel: int, dtype: torch.dtype) -> Tensor:
        range, levels, scheme = self.coding
        return _OP.dequantize_per_tensor.default(codes, range, numel, levels, scheme, dtype)


def convolution_backward(
    grad: Tensor, x: StoredImages, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> Gradients:
    """Gradients of a convolution over the values of x with w, float32, to both.

    The one to x is channels last and of the dtype of `grad`. Products are those of that dtype,
    but of depthwise convolutions on the CPU, whose products and sums are float32.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    if grad.device.type == "cpu":
        if call.groups == x.size[1] == w.shape[0]:
            return _depthwise(grad, x, w, call, wanted)
        if call.is_pointwise(w) and grad.dtype == torch.float32:
            return _pointwise(grad, x, w, call, wanted)
    return torchs(grad, x.values(grad.dtype), w.to(grad.dtype), call, wanted)


def _depthwise(
    grad: Tensor, x: StoredImages, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> Gradients:
    sizes = map(list, (x.size, call.stride, call.padding, call.dilation))
    grad_x, grad_w = _OP.depthwise_gradient.default(
        grad, x.codes, x.table(), w.contiguous(), *sizes, *wanted
    )
    return grad_x if wanted[0] else None, grad_w if wanted[1] else None


def _pointwise(
    grad: Tensor, x: StoredImages, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> Gradients:
    """Products of matrices, whose rows are the channels of a pixel."""
    outputs, channels = w.shape[:2]
    pixels = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
    grad_x = grad_w = None
    if wanted[0]:
        n, _, height, width = x.size
        flat = pixels @ w.reshape(outputs, channels)
        grad_x = flat.view(n, height, width, channels).permute(0, 3, 1, 2)
    is_product = channels >= _MANY_CHANNELS or len(pixels) <= _FEW_PIXELS
    if wanted[1] and is_product:
        values = x.values(torch.float32).permute(0, 2, 3, 1).reshape(-1, channels)
        grad_w = (pixels.t() @ values).view(w.shape)
    elif wanted[1]:
        grad_w = torchs(grad, x.values(torch.float32), w, call, (False, True))[1]
    return grad_x, grad_w


def torchs(
    grad: Tensor, x: Tensor, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> Gradients:
    """Those of torch over values, all in one dtype."""
    if grad.device.type == "cpu" and call.skips_pixels(w):
        return _of_read_pixels(grad, x, w, call, wanted)
    top, left, bottom, right = call.padding
    is_even = (top, left) == (bottom, right)
    padding = [top, left] if is_even else [0, 0]
    height, width = x.shape[2:]
    if not is_even:
        x = F.pad(x, [left, right, top, bottom])
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward.default(
        grad,
        x,
        w.contiguous(memory_format=torch.channels_last),
        None,
        list(call.stride),
        padding,
        list(call.dilation),
        False,
        [0, 0],
        call.groups,
        [*wanted, False],
    )
    del x  # before another tensor as large is made
    if grad_x is not None and not is_even:
        grad_x = grad_x[:, :, top : top + height, left : left + width]
    if grad_x is not None:
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    return grad_x, grad_w


def _of_read_pixels(
    grad: Tensor, x: Tensor, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> Gradients:
    """Those of a convolution of single pixels that reads only each so many of them.

    Given such a stride, images channels last and fewer channels than a vector of the processor
    holds, oneDNN writes beyond its memory: a wrong gradient to w, a crash or no end.
    Source: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    y, across = call.stride
    read = x[:, :, ::y, ::across].contiguous(memory_format=torch.channels_last)
    grad_read, grad_w = torchs(grad, read, w, replace(call, stride=(1, 1)), wanted)
    if grad_read is None:
        return None, grad_w
    grad_x = torch.zeros_like(x, dtype=grad_read.dtype, memory_format=torch.channels_last)
    grad_x[:, :, ::y, ::across] = grad_read
    return grad_x, grad_w
