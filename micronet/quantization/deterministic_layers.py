"""Layers that stay in float in a quantized network, and what all its convolutions share.

In evaluation they sum in one stated order, so that a network's answer depends neither on the batch
nor on the threads nor on the machine. In training they are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

import micronet_kernels as kernels
from micronet.models import timm_networks
from micronet.models.replacement import options_of
from micronet.quantization.evaluation.exact_functions import apart

# For every network that is made of the operators, before a counter can look at it.
kernels.register_flop_formulas()


def is_computed_here(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take ``x`` and ``weight``.

    Else ordinary operators do: something traces the network, or there is nothing to compute.
    """
    return kernels.is_eager(x, weight) and weight.dtype == torch.float32 and x.numel() > 0


def flat_batch(x: Tensor, dims: int, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``forward``, which wants a single batch axis before ``dims`` more, to other shapes.

    Raises:
        ValueError: ``x`` has fewer axes.
    """
    if x.dim() < dims:
        raise ValueError(f"a layer of {dims} axes and a batch does not take {list(x.shape)}")
    batch = x.shape[: x.dim() - dims]
    y = forward(x.reshape(-1, *x.shape[x.dim() - dims :]))
    return y.reshape(*batch, *y.shape[1:])


def summed(exact: Tensor, ordinary: Callable[[], Tensor]) -> Tensor:
    """Return ``exact``, with the gradient of what torch's own operator gives, if one is wanted."""
    return kernels.with_gradient_of(exact, ordinary()) if torch.is_grad_enabled() else exact


class ExactConv2d(nn.Conv2d):
    """A convolution with the source's own parameters, whose padding follows the image if "SAME"."""

    def __init__(self, source: nn.Conv2d) -> None:
        sizes = source.in_channels, source.out_channels
        super().__init__(*sizes, **options_of(source), device="meta")
        self.weight, self.bias = source.weight, source.bias
        dynamic = Conv2dDynamicSamePadding, *timm_networks.same_padding_layers()
        is_dynamic = isinstance(source, dynamic)
        self.same_padding = is_dynamic or getattr(source, "same_padding", False)

    def sides(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return the zero padding (top, left, bottom, right) of an image of ``size``."""
        if self.same_padding:
            left, right, top, bottom = self._same_padding(size)
            return top, left, bottom, right
        if self.padding_mode != "zeros" or self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            kernel, dilation = _pair(self.kernel_size), _pair(self.dilation)
            y, x = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
            return y // 2, x // 2, y - y // 2, x - x // 2
        y, x = _pair(self.padding)
        return y, x, y, x

    def bordered(self, x: Tensor) -> Tensor:
        """Return ``x`` with the border that is no zeros, which is made of its own values."""
        if self.padding_mode == "zeros":
            return x
        return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)

    def shift(self) -> Tensor | None:
        """Return what is added to each output channel."""
        return self.bias

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``x`` with ``weight``, which has the shape of the layer's own."""
        if self.same_padding:
            # The code of a padded zero is the code of zero, so padding after quantizing is exact.
            x = F.pad(x, self._same_padding(x.shape[-2:]))
        return self._conv_forward(x, weight, self.shift())

    def geometry(self, size: torch.Size) -> tuple[Any, ...]:
        """Return stride, padding, dilation and groups for an image of ``size``, as kernels do."""
        return _pair(self.stride), self.sides(size), _pair(self.dilation), self.groups

    def evaluate(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``convolve`` in the stated order; what follows it waits for its reader."""
        images = self.bordered(x)
        exact = kernels.conv2d_deterministic(
            images, weight, self.shift(), *self.geometry(images.shape[-2:])
        )
        # The kernel's output is channels last; torch's lies as one of its operands does.
        channels_last = kernels.is_channels_last(x) or kernels.is_channels_last(weight)
        y = summed(exact, lambda: self.convolve(x, weight))
        return kernels.LazyTensor.wait(y, channels_last)

    def _same_padding(self, size: torch.Size) -> list[int]:
        """Return (left, right, top, bottom) that make the output ``ceil(size / stride)``."""
        padding: list[int] = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            padding = [total // 2, total - total // 2, *padding]
        return padding


class FloatConv2d(ExactConv2d):
    """A convolution in float; what follows it waits for its reader, as after quantized ones."""

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (batch, in, height, width) into (batch, out, height', width')."""
        x = input
        if not is_computed_here(x, self.weight):
            return self.convolve(x, self.weight)
        if x.dim() == 3:
            return flat_batch(x, 3, self.forward)
        if x.dim() != 4:
            # torch refuses it, in its own words.
            return self.convolve(x, self.weight)
        if self.training:
            return kernels.LazyTensor.wait(self.convolve(x, self.weight))
        return self.evaluate(x.float(), self.weight)


class FloatLinear(nn.Linear):
    """A linear layer in float, with the source's own parameters."""

    def __init__(self, source: nn.Linear) -> None:
        has_bias = source.bias is not None
        super().__init__(source.in_features, source.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = source.weight, source.bias

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` (..., in_features) to (..., out_features)."""
        x = input
        if self.training or not is_computed_here(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return flat_batch(x.float(), 1, self._evaluate)

    def _evaluate(self, x: Tensor) -> Tensor:
        exact = kernels.linear_deterministic(x, self.weight, self.bias)
        return summed(exact, lambda: F.linear(x, self.weight, self.bias))


class MeanPool2d(nn.AdaptiveAvgPool2d):
    """The mean over all positions; in evaluation by sixteen lanes, as the means of blocks are."""

    def __init__(self, source: nn.AdaptiveAvgPool2d) -> None:
        super().__init__(source.output_size)

    @staticmethod
    def replaces(module: nn.Module) -> TypeGuard[nn.AdaptiveAvgPool2d]:
        """Whether a module is torch's own average of all positions."""
        return type(module) is nn.AdaptiveAvgPool2d and _pair(module.output_size) == (1, 1)

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Average ``input`` (batch, channels, height, width) to (batch, channels, 1, 1)."""
        x = input
        is_exact = not self.training and x.dtype == torch.float32 and x.dim() == 4
        if is_exact and x.numel() > 0 and kernels.is_eager(x):
            return kernels.position_means(x)
        return super().forward(x)
