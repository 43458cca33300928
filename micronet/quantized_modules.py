"""Layers whose weights and input activations are codes of a few bits while they train.

The master weights stay in float under their usual names; each forward pass quantises them, masked,
per output channel, and quantises the layer's input. The step of either operand follows a range, or
is learned (see ``quantizers``). The arithmetic is ``micronet_kernels``' affine scheme, the same in
training and evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.exact_modules import ExactConv2d, can_evaluate, summed
from micronet.layer_bits import LayerBits
from micronet.quantizers import (
    ActivationQuantizer,
    InputQuantizer,
    LearnedActivationQuantizer,
    gradient_scale,
    initial_step,
    scale_of_steps,
)

# Stride, padding, dilation and groups of a linear layer, a convolution of images of one pixel.
_OF_ONE_PIXEL = (1, 1), (0, 0, 0, 0), (1, 1), 1


class QuantizedLayer(nn.Module):
    """What quantised convolutions and linear layers share.

    Where the step of the weights is learned, ``weight_step`` holds one for each output channel.
    """

    weight: Tensor
    mask: Tensor
    weight_step: nn.Parameter | None
    weight_zero_point: Tensor

    def _quantize_like(self, bits: LayerBits) -> None:
        self.bits = bits
        self.input_quantizer = _input_quantizer(bits)
        # Bits of the pruning mask; empty while the layer is dense. The masks of a run are saved
        # once, under their own keys, so this one is not part of the state.
        self.register_buffer("mask", torch.empty(0, dtype=torch.uint8), persistent=False)
        self.register_parameter("weight_step", None)
        # The values of `weight` while a forward pass of the whole network has them ready.
        self.ready_weight: Tensor | None = None

    @property
    def has_weight_range(self) -> bool:
        """Whether the step of the weights follows their range."""
        return self.bits.weight_bits is not None and self.bits.weight_step == "range"

    @property
    def weight_levels(self) -> int:
        """Number of levels of a quantised weight."""
        levels = self.bits.weight_levels
        assert levels is not None
        return levels

    @property
    def activation_levels(self) -> int:
        """Number of levels of a quantised input."""
        levels = self.bits.activation_levels
        assert levels is not None
        return levels

    @property
    def weight_mask(self) -> Tensor | None:
        """Bits of the pruning mask, None while the layer is dense."""
        return self.mask if self.mask.numel() else None

    @property
    def is_exact(self) -> bool:
        """Whether both operands are codes that the integer convolution takes."""
        return self.bits.float_because is None

    def _takes(self, x: Tensor, dims: int) -> bool:
        # On the meta device only shapes count, which the ordinary operators have too.
        fits = x.is_floating_point() and self.weight.dtype == torch.float32
        return self.is_exact and fits and x.dim() == dims and x.numel() > 0 and not x.is_meta

    def _codes(self, x: Tensor) -> kernels.QuantisedInput:
        assert isinstance(self.input_quantizer, ActivationQuantizer)
        return self.input_quantizer.codes(x)

    def start_weight_steps(self) -> None:
        """Give each output channel a step to learn, from the weights that ``mask`` keeps now."""
        magnitude = self.weight.detach().float().abs().flatten(1)
        kept = torch.ones_like(magnitude, dtype=torch.bool)
        if self.weight_mask is not None:
            kept = kernels.unpack_bits(self.mask, magnitude.numel()).view(magnitude.shape)
        mean = (magnitude * kept).sum(1) / kept.sum(1).clamp(min=1)
        self.weight_step = nn.Parameter(initial_step(mean, self._largest_weight()))
        zero_point = torch.full_like(mean, self._largest_weight() - (self.weight_levels - 1))
        self.register_buffer("weight_zero_point", zero_point, persistent=False)

    def _largest_weight(self) -> int:
        return self.weight_levels - 1 - self.weight_levels // 2

    def quantized_weight(self) -> Tensor:
        """Return the values that the layer computes with, shaped as ``weight``."""
        if self.bits.weight_bits is None:
            return self.weight
        if self.weight_step is None:
            return kernels.fake_quant_per_channel(self.weight, self.weight_levels, self.weight_mask)
        # Contiguous, because the mask follows the logical order; a layer of one channel counts
        # as one tensor, whose order would be that of its memory.
        return kernels.fake_quant_learned_step(
            self.weight.contiguous(),
            self.weight_step,
            self.weight_zero_point,
            self.weight_levels,
            self.weight_mask,
            gradient_scale(self.weight[:1].numel(), self._largest_weight()),
        )

    def weight_scale(self) -> Tensor:
        """Return the scales S of the weights' values ``i / S``, one for each output channel."""
        if self.weight_step is not None:
            return scale_of_steps(self.weight_step)
        return kernels.quantize_per_channel(self.weight, self.weight_levels, self.weight_mask)[1]

    def _evaluates(self, x: Tensor, dims: int) -> bool:
        """Whether sums are to be those of every backend, whatever the batch and the threads."""
        return not self.training and can_evaluate(x, self.weight, dims)

    def _sums_integers(self) -> bool:
        """Whether both operands are whole numbers over a scale, whose sums 32 bits hold."""
        if self.input_quantizer is None or self.bits.weight_bits is None:
            return False
        depth = self.weight[0].numel()
        return kernels.fits_32_bits(depth, self.activation_levels, self.weight_levels)

    def _integer_sums(self, x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        """Convolve values in evaluation; ``geometry`` is stride, padding, dilation and groups."""
        assert self.input_quantizer is not None
        call = kernels.ConvCall(self.activation_levels, self.weight_levels, *geometry)
        scales = self.input_quantizer.scale, self.weight_scale()
        bias: Any = self.bias
        return kernels.conv2d_of_integers(x, scales[0], weight, scales[1], bias, call)

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(x, kernels.Deferred):
            # Once: every use of a tensor that waits computes it anew.
            x = x.values()
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        ready = self.ready_weight
        return x, self.quantized_weight() if ready is None else ready


def _input_quantizer(bits: LayerBits) -> InputQuantizer | None:
    levels = bits.activation_levels
    if levels is None:
        return None
    if bits.activation_step == "learned":
        return LearnedActivationQuantizer(levels)
    return ActivationQuantizer(levels, bits.decay)


class QuantizedConv2d(QuantizedLayer, ExactConv2d):
    """A convolution over quantised weights and inputs, with the source's own parameters."""

    def __init__(self, source: nn.Conv2d, bits: LayerBits) -> None:
        ExactConv2d.__init__(self, source)
        self._quantize_like(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (batch, in, height, width) into (batch, out, height', width')."""
        if self._takes(x, 4) and self.pads_zeros:
            geometry = self.geometry(x.shape[-2:])
            call = kernels.ConvCall(self.activation_levels, self.weight_levels, *geometry)
            codes = self._codes(x)
            return kernels.Deferred.convolve(codes, self.weight, self.mask, self.bias, call)
        x, weight = self._operands(x)
        if not (self._evaluates(x, 4) and self.pads_zeros):
            return self.convolve(x, weight)
        if self._sums_integers():
            return self._integer_sums(x, weight, *self.geometry(x.shape[-2:]))
        return self.evaluate(x, weight)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer over quantised weights and, where asked, inputs."""

    def __init__(self, source: nn.Linear, bits: LayerBits) -> None:
        has_bias = source.bias is not None
        nn.Linear.__init__(
            self, source.in_features, source.out_features, bias=has_bias, device="meta"
        )
        self.weight, self.bias = source.weight, source.bias
        self._quantize_like(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in_features) to (..., out_features)."""
        if self._takes(x, 2):
            return self._multiply_codes(x)
        levels, mask = 0, None
        if self.input_quantizer is None and self.has_weight_range and self._evaluates(x, 2):
            # Integers of the weights are summed, and scaled afterwards.
            weight, levels, mask = self.weight, self.weight_levels, self.weight_mask
        else:
            x, weight = self._operands(x)
        if not self._evaluates(x, 2):
            return F.linear(x, weight, self.bias)
        if self._sums_integers():
            images, kernel = x[:, :, None, None], weight[:, :, None, None]
            return self._integer_sums(images, kernel, *_OF_ONE_PIXEL).flatten(1)
        exact = kernels.linear_by_lanes(x, weight, self.bias, levels, mask)
        return summed(exact, lambda: F.linear(x, self.quantized_weight(), self.bias))

    def _multiply_codes(self, x: Tensor) -> Tensor:
        """A linear layer is a convolution of images of one pixel."""
        call = kernels.ConvCall(self.activation_levels, self.weight_levels, *_OF_ONE_PIXEL)
        weight = self.weight[:, :, None, None]
        codes = self._codes(x[:, :, None, None])
        return kernels.Deferred.convolve(codes, weight, self.mask, self.bias, call).flatten(1)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Yield the quantised layers of a model and their names, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def quantize_weights_together(model: nn.Module) -> None:
    """Make each forward pass of ``model`` quantise all its weights that have a range in one call.

    The values are those of each layer's own call, which still serves a layer that is called
    outside such a pass. They are gone when the pass ends, also where it ends in an error.
    """
    if _quantize_weights not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_quantize_weights)
        model.register_forward_hook(_drop_weights, always_call=True)


# The hooks find the layers anew each time: a copy of the model must not find the original's.
def _quantize_weights(model: nn.Module, inputs: Any) -> None:
    alike: dict[tuple[torch.device, torch.dtype], list[QuantizedLayer]] = defaultdict(list)
    for _, layer in quantized_layers(model):
        if layer.has_weight_range and not layer.is_exact:
            alike[layer.weight.device, layer.weight.dtype].append(layer)
    for layers in alike.values():
        weights = kernels.fake_quant_weights(
            [layer.weight for layer in layers],
            [layer.weight_levels for layer in layers],
            [layer.weight_mask for layer in layers],
        )
        for layer, weight in zip(layers, weights, strict=True):
            layer.ready_weight = weight


def _drop_weights(model: nn.Module, inputs: Any, output: Any) -> None:
    for _, layer in quantized_layers(model):
        layer.ready_weight = None
