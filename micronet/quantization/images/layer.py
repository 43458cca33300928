"""The convolution that reads an image as grey values, with its normalization folded in.

Of a normalized image ``x = (p - m) / d`` in grey values, m and d being 255 times mean and standard
deviation of a channel, and with D the largest d, it computes

    sum(x * w) = sum(p * w') / D - sum(m * w') / D,        w' = w * D / d,

where the ``w'`` of an output channel are rounded together. The first sum is one of integers, the
second a number for each output channel, which is added to the bias as that of a normalization is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.quantization.deterministic_layers import flat_batch, summed
from micronet.quantization.evaluation.exact_functions import apart
from micronet.quantization.layers import QuantizedConv2d
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers.images import ImageQuantizer


class ImageConv2d(QuantizedConv2d):
    """A convolution over quantized weights and the grey values of normalized images.

    A padding of zeros is rounded as all else is: to the grey value next to the mean, 0 in the
    normalized image but for that rounding. In training and in evaluation alike.
    """

    input_quantizer: ImageQuantizer
    factors: Tensor

    def __init__(self, source: nn.Conv2d, bits: LayerBits) -> None:
        super().__init__(source, bits)
        factors = self._of_weights(self.input_quantizer.factors)
        self.register_buffer("factors", factors, persistent=False)

    def _of_weights(self, of_channels: Tensor) -> Tensor:
        """Return one number for each input channel [C] as weights have channels, for products."""
        rows = of_channels.view(self.groups, 1, -1)
        if self.groups > 1:
            rows = rows.expand(-1, self.out_channels // self.groups, -1).flatten(0, 1)
        return rows.reshape(-1, self.in_channels // self.groups, 1, 1)

    def scaled_weight(self) -> Tensor:
        """Return ``w'``, the weights times the factors of their input channels."""
        return self.weight * self.factors

    def weight_factors(self) -> Tensor:
        """Return the factors, shaped as ``weight``."""
        return self.factors.expand_as(self.weight)

    def shift(self) -> Tensor:
        """Return the bias without what the means of the image add to each output channel.

        In float64, from integers, with one rounding at the end: sums over the positions of the
        kernel are exact, and those over channels are added in their order.
        """
        rounded, mean = self.quantized_weight(), self._of_weights(self.input_quantizer.mean)
        total = (rounded * (mean / self.input_quantizer.scale)).flatten(1).sum(1)
        ordinary = -total if self.bias is None else self.bias - total
        if not kernels.is_eager(self.weight):
            return ordinary
        return summed(self._exact_shift(rounded, mean), lambda: ordinary)

    @torch.no_grad()
    def _exact_shift(self, rounded: Tensor, mean: Tensor) -> Tensor:
        scale = self.weight_scale()
        integers = torch.round(rounded.flatten(2) * scale[:, None, None])
        products = integers.double().sum(2) * mean.flatten(1).double()
        total = products[:, 0]
        for channel in range(1, products.shape[1]):
            total = total + products[:, channel]
        # What the kernels multiply integers by.
        step = torch.ones_like(scale) / (self.input_quantizer.scale * scale)
        total = total * step.double()
        return (-total if self.bias is None else self.bias.double() - total).float()

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Convolve normalized images (batch, in, height, width) into (batch, out, ...)."""
        x = input
        if isinstance(x, Tensor):
            if x.dim() == 3:
                return flat_batch(x, 3, self.forward)
            if x.dim() != 4 or x.shape[1] != self.in_channels:
                # torch refuses it, in its own words.
                return F.conv2d(x, self.weight, None, self.stride, 0, self.dilation, self.groups)
        return super().forward(self._padded(x))

    def _padded(self, x: Tensor) -> Tensor:
        x = super().bordered(x)
        top, left, bottom, right = self.border(x.shape[-2:])
        return F.pad(x, [left, right, top, bottom]) if any((top, left, bottom, right)) else x

    def border(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return what is padded (top, left, bottom, right) around an image of ``size``."""
        return super().sides(size)

    def bordered(self, x: Tensor) -> Tensor:
        """Return images as they are: they have their border."""
        return x

    def sides(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return no padding: images have it."""
        return 0, 0, 0, 0

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve bordered values of grey with weights that are scaled to them."""
        return F.conv2d(x, weight, self.shift(), self.stride, 0, self.dilation, self.groups)
