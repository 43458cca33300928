"""Layers that stay in float in a quantised network, and what all its convolutions share.

In evaluation they sum in one stated order, so that a network's answer depends neither on the batch
nor on the threads nor on the machine. In training they are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding
from torch import Tensor, nn

import micronet_kernels as kernels


def can_evaluate(x: Tensor, weight: Tensor, dims: int) -> bool:
    """Whether ``x`` and ``weight`` are what the operators of evaluation take, gradients aside."""
    is_float = x.dtype == weight.dtype == torch.float32
    return is_float and x.dim() == dims and x.numel() > 0 and not x.is_meta


def summed(exact: Tensor, ordinary: Callable[[], Tensor]) -> Tensor:
    """Return ``exact``, with the gradient of what torch's own operator gives, if one is wanted."""
    return kernels.with_gradient_of(exact, ordinary()) if torch.is_grad_enabled() else exact


class ExactConv2d(nn.Conv2d):
    """A convolution with the source's own parameters, whose padding follows the image if "SAME"."""

    def __init__(self, source: nn.Conv2d) -> None:
        super().__init__(
            source.in_channels,
            source.out_channels,
            source.kernel_size,  # type: ignore[arg-type]
            source.stride,  # type: ignore[arg-type]
            source.padding,  # type: ignore[arg-type]
            source.dilation,  # type: ignore[arg-type]
            source.groups,
            source.bias is not None,
            source.padding_mode,
            device="meta",
        )
        self.weight, self.bias = source.weight, source.bias
        is_dynamic = isinstance(source, Conv2dDynamicSamePadding)
        self.same_padding = is_dynamic or getattr(source, "same_padding", False)

    @property
    def pads_zeros(self) -> bool:
        """Whether the padding is zeros, of a number of pixels that is known."""
        return self.padding_mode == "zeros" and not isinstance(self.padding, str)

    def sides(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return the padding (top, left, bottom, right) of an image of ``size``."""
        if self.same_padding:
            left, right, top, bottom = self._same_padding(size)
            return top, left, bottom, right
        y, x = (int(side) for side in self.padding)
        return y, x, y, x

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``x`` with ``weight``, which has the shape of the layer's own."""
        if self.same_padding:
            # The code of a padded zero is the code of zero, so padding after quantising is exact.
            x = F.pad(x, self._same_padding(x.shape[-2:]))
        return self._conv_forward(x, weight, self.bias)

    def geometry(self, size: torch.Size) -> tuple[Any, ...]:
        """Return stride, padding, dilation and groups for an image of ``size``, as kernels do."""
        return self.stride, self.sides(size), self.dilation, self.groups

    def evaluate(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``convolve`` in the stated order; what follows it waits for its reader."""
        exact = kernels.float_conv2d(x, weight, self.bias, *self.geometry(x.shape[-2:]))
        return kernels.Deferred.of_values(summed(exact, lambda: self.convolve(x, weight)))

    def _same_padding(self, size: torch.Size) -> list[int]:
        """Return (left, right, top, bottom) that make the output ``ceil(size / stride)``."""
        padding: list[int] = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            padding = [total // 2, total - total // 2, *padding]
        return padding


class FloatConv2d(ExactConv2d):
    """A convolution in float; what follows it waits for its reader, as after quantised ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (batch, in, height, width) into (batch, out, height', width')."""
        if not can_evaluate(x, self.weight, 4):
            return self.convolve(x, self.weight)
        if self.training or not self.pads_zeros:
            return kernels.Deferred.of_values(self.convolve(x, self.weight))
        return self.evaluate(x, self.weight)


class FloatLinear(nn.Linear):
    """A linear layer in float, with the source's own parameters."""

    def __init__(self, source: nn.Linear) -> None:
        has_bias = source.bias is not None
        super().__init__(source.in_features, source.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in_features) to (..., out_features)."""
        if self.training or not can_evaluate(x, self.weight, 2):
            return F.linear(x, self.weight, self.bias)
        exact = kernels.linear_by_lanes(x, self.weight, self.bias)
        return summed(exact, lambda: F.linear(x, self.weight, self.bias))
