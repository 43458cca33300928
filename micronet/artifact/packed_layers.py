"""Layers that compute with the stored integers of their weights, as evaluation did.

They are quantized layers of the library, so that whatever counts or shows those takes them; what
they lack is training. Where something traces them they are ordinary operators over their values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.artifact.format.document import INTEGER, SCALED, Layer
from micronet.artifact.format.packing import Weights
from micronet.quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from micronet.quantization.quantize import LayerBits
from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.recipe.schema import IMAGE


class PackedLayer(QuantizedLayer):
    """What packed convolutions and linear layers share.

    The parameters are those of evaluation: ``factor`` [O], by which sums are multiplied, and the
    bias, both with a normalization taken in. ``weight`` holds integers, or where floats are summed
    the values.
    """

    sums: str
    factor: Tensor | None
    norm_scale: Tensor | None
    packed_zero_point: Tensor

    def _take(
        self, layer: Layer, weights: Weights, tensors: dict[str, Tensor], quantizer: Any
    ) -> None:
        self.sums = layer.sums
        zero = torch.zeros(layer.shape[0]) if weights.zero_point is None else weights.zero_point
        scale = tensors.get("weight_scale")
        values = weights.values
        if layer.sums not in (INTEGER, SCALED) and scale is not None:
            # Values are divided, as quantizers do.
            values = values / scale.view(-1, *(1,) * (values.dim() - 1))
        self.weight = nn.Parameter(values, requires_grad=False)
        bias = tensors.get("bias")
        stored_bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", stored_bias)
        self.input_quantizer = quantizer
        norm = tensors.get("norm_scale")
        factor = scale if layer.sums in (INTEGER, SCALED) else norm
        grid = scale if layer.sums not in (INTEGER, SCALED) and scale is not None else None
        for name, value in (
            ("factor", factor),
            ("norm_scale", norm),
            ("packed_zero_point", zero),
            ("grid", torch.ones(layer.shape[0]) if grid is None else grid),
        ):
            self.register_buffer(name, value, persistent=False)

    def quantized_weight(self) -> Tensor:
        """Return integers, or the values where floats are summed, shaped as ``weight``."""
        return self.weight

    def weight_scale(self) -> Tensor:
        """Return the scales S of ``quantized_weight``'s ``i / S``, one for each output channel."""
        return self.get_buffer("grid")

    def _integers(self, x: Tensor, kernel: Tensor, call: kernels.ConvCall) -> Tensor:
        """Convolve images of this layer's input with integers."""
        assert self.input_quantizer is not None and self.factor is not None
        bias: Any = self.bias
        codes = self.input_quantizer.codes(x, x.shape[1:].numel())
        if codes is None:
            values, scale = self.input_quantizer(x.float()), self.input_quantizer.scale
            return kernels.conv2d_of_nonfinite(values, scale, kernel, self.factor, bias, call)
        zero = self.packed_zero_point
        return kernels.conv2d_of_stored(codes, kernel, zero, self.factor, bias, call)

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values of which ordinary operators make this layer's, up to the order of sums."""
        weight, factor, quantizer = self.weight, self.factor, self.input_quantizer
        if quantizer is not None:
            x = quantizer(x)
        # A counter on the meta device asks whether what is multiplied by is the weight itself.
        if factor is None or weight.is_meta:
            return x, weight
        if self.sums == INTEGER and quantizer is not None:
            factor = factor * quantizer.scale
        return x, weight * factor.view(-1, *(1,) * (weight.dim() - 1))

    def _values(self, x: Tensor) -> Tensor:
        return x.float() if self.input_quantizer is None else self.input_quantizer(x.float())


class PackedConv2d(PackedLayer, QuantizedConv2d):
    """A convolution over stored weights."""

    multiplies_by_weight = True

    def __init__(
        self, layer: Layer, weights: Weights, tensors: dict[str, Tensor], quantizer: Any
    ) -> None:
        outputs, inputs, *kernel = layer.shape
        assert layer.groups is not None
        source = nn.Conv2d(
            inputs * layer.groups,
            outputs,
            tuple(kernel),  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            0,
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            device="meta",
        )
        QuantizedConv2d.__init__(self, source, _bits(layer, quantizer))
        self._take(layer, weights, tensors, quantizer)
        self._padding = layer.padding

    def sides(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return the zero padding (top, left, bottom, right)."""
        return self._padding  # type: ignore[return-value]

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``x`` with ``weight``, with whatever operators trace it."""
        top, left, bottom, right = self.sides(x.shape[-2:])
        return self._conv_forward(F.pad(x, (left, right, top, bottom)), weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (batch, in, height, width) into (batch, out, height', width')."""
        x = input
        if not self._is_computed_here(x):
            return self.convolve(*self._operands(x))
        if self.sums == INTEGER:
            return self._integers(x, self.weight, self._call(x.shape[-2:]))
        x = self._values(x)
        if self.factor is None:
            return self.evaluate(x, self.weight)
        channels_last = kernels.is_channels_last(x) or kernels.is_channels_last(self.weight)
        geometry = self.geometry(x.shape[-2:])
        sums = kernels.conv2d_deterministic(x, self.weight, None, *geometry)
        return kernels.scaled_sums(sums, self.factor, self.bias, channels_last)


class PackedImageConv2d(PackedConv2d):
    """A convolution over stored weights that reads the grey values of images, and of a border."""

    multiplies_by_weight = True

    def forward(self, input: Tensor) -> Tensor:
        """Convolve normalized images (batch, in, height, width) into (batch, out, ...)."""
        top, left, bottom, right = self._padding  # type: ignore[misc]
        return super().forward(F.pad(input, (left, right, top, bottom)))

    def sides(self, size: torch.Size) -> tuple[int, int, int, int]:
        """Return no padding: images have their border, whose zeros are rounded as they are."""
        return 0, 0, 0, 0


class PackedLinear(PackedLayer, QuantizedLinear):
    """A linear layer over stored weights."""

    multiplies_by_weight = True

    def __init__(
        self, layer: Layer, weights: Weights, tensors: dict[str, Tensor], quantizer: Any
    ) -> None:
        source = nn.Linear(layer.shape[1], layer.shape[0], device="meta")
        QuantizedLinear.__init__(self, source, _bits(layer, quantizer))
        self._take(layer, weights, tensors, quantizer)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` (batch, in_features) to (batch, out_features)."""
        x = input
        if not self._is_computed_here(x):
            return self.combine(*self._operands(x))
        if self.sums == INTEGER:
            kernel = self.weight[:, :, None, None]
            return self._integers(x[:, :, None, None], kernel, self._call()).flatten(1)
        x = self._values(x)
        if self.factor is None:
            return kernels.linear_deterministic(x, self.weight, self.bias)
        sums = kernels.linear_deterministic(x, self.weight, None)[:, :, None, None]
        return kernels.scaled_sums(sums, self.factor, self.bias, True).flatten(1)


def _bits(layer: Layer, quantizer: InputQuantizer | None) -> LayerBits:
    """Return the precision of a layer, its quantizers being others than it would make itself."""
    of_weights = None if layer.levels is None else kernels.bits_of_levels(layer.levels)
    of_input = None if quantizer is None else kernels.bits_of_levels(quantizer.levels)
    if isinstance(quantizer, ImageQuantizer):
        return LayerBits(
            of_weights,
            of_input,
            activation_step=IMAGE,
            image_mean=quantizer.moments[0],
            image_std=quantizer.moments[1],
        )
    return LayerBits(of_weights, of_input)
