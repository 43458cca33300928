"""Layers whose weights and input activations are codes of a few bits while they train.

The master weights stay in float under their usual names; each forward pass quantizes them, masked,
per output channel, and quantizes the layer's input. The step of either operand follows a range, or
is learned (see ``quantizers``). The arithmetic is ``micronet_kernels``' affine scheme, the same in
training and evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.quantization.deterministic_layers import (
    ExactConv2d,
    flat_batch,
    summed,
)
from micronet.quantization.evaluation.exact_functions import apart
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.quantization.quantizers.inputs import ActivationQuantizer, InputQuantizer
from micronet.quantization.quantizers.learned import (
    LearnedActivationQuantizer,
    gradient_scale,
    initial_step,
    scale_of_steps,
    step_factor,
)
from micronet.utils.unsaved_buffers import UnsavedBuffers

# Stride, padding, dilation and groups of a linear layer, a convolution of images of one pixel.
_OF_ONE_PIXEL = (1, 1), (0, 0, 0, 0), (1, 1), 1


class QuantizedLayer(UnsavedBuffers, ABC):
    """What quantized convolutions and linear layers share.

    Where the step of the weights is learned, ``weight_step`` holds one for each output channel.
    """

    weight: Tensor
    mask: Tensor
    weight_step: nn.Parameter | None
    weight_zero_point: Tensor

    def _quantize_like(self, bits: LayerBits) -> None:
        self.bits = bits
        # Of the weights, for which their learned step is chosen; others then reach as far.
        self.start_levels = bits.weight_levels
        self.input_quantizer = _input_quantizer(bits)
        # Bits of the pruning mask; empty while the layer is dense. The masks of a run are saved
        # once, under their own keys, so this one is not part of the state.
        self.register_buffer("mask", torch.empty(0, dtype=torch.uint8), persistent=False)
        self.register_parameter("weight_step", None)

    @property
    def has_weight_range(self) -> bool:
        """Whether the step of the weights follows their range."""
        return self.bits.weight_bits is not None and self.bits.weight_step == "range"

    @property
    def weight_levels(self) -> int:
        """Number of levels of a quantized weight."""
        return _levels(self.bits.weight_levels, "weights stay")

    @property
    def activation_levels(self) -> int:
        """Number of levels of a quantized input."""
        return _levels(self.bits.activation_levels, "input stays")

    @property
    def weight_mask(self) -> Tensor | None:
        """Bits of the pruning mask, None while the layer is dense."""
        return self.mask if self.mask.numel() else None

    @property
    def is_exact(self) -> bool:
        """Whether both operands are codes whose products 32 bits hold the sums of."""
        return self.bits.why_float(self.weight[0].numel()) is None

    def _is_computed_here(self, x: Tensor) -> bool:
        """Whether the kernels compute the layer; raises where no arithmetic of ours could."""
        if not kernels.is_eager(x, self.weight):
            return False
        if self.weight.dtype != torch.float32:
            raise TypeError(
                f"a quantized layer computes in float32, but its weights are {self.weight.dtype}"
            )
        return x.numel() > 0

    def _codes(self, x: Tensor) -> kernels.QuantizedInput | None:
        assert self.input_quantizer is not None
        return self.input_quantizer.codes(self._images(x), x.shape[1:].numel())

    def _images(self, x: Tensor) -> Tensor:
        """Return what is rounded of an input: all of it, with its border where it has one."""
        return x

    def _quantized_weights(self) -> kernels.QuantizedWeights:
        if self.weight_step is None:
            scheme = self.bits.weight_scheme
            return kernels.QuantizedWeights.of_ranges(self.weight, self.mask, scheme)
        learned = kernels.Learned(self.weight_step, gradient_scale=self._step_gradient_scale())
        return kernels.QuantizedWeights.of_steps(self.mask, self.weight_zero_point, learned)

    def _step_gradient_scale(self) -> float:
        factor = step_factor(self.start_levels, self.weight_levels)
        return gradient_scale(self.weight[:1].numel(), self._largest_weight(), factor)

    def scaled_weight(self) -> Tensor:
        """Return the weights as they are rounded: as they are, but in a layer that reads images."""
        return self.weight

    def weight_factors(self) -> Tensor:
        """Return by what each weight is multiplied for that, shaped as ``weight``."""
        return torch.ones_like(self.weight)

    def start_weight_steps(self) -> None:
        """Give each output channel a step to learn, from the weights that ``mask`` keeps now."""
        magnitude = self.scaled_weight().detach().float().abs().flatten(1)
        kept = torch.ones_like(magnitude, dtype=torch.bool)
        if self.weight_mask is not None:
            kept = kernels.unpack_bits(self.mask, magnitude.numel()).view(magnitude.shape)
        mean = (magnitude * kept).sum(1) / kept.sum(1).clamp(min=1)
        self.weight_step = nn.Parameter(initial_step(mean, self._largest_weight()))
        zero_point = torch.full_like(mean, self._lowest_weight())
        self.register_buffer("weight_zero_point", zero_point, persistent=False)

    def _largest_weight(self) -> int:
        return self.weight_levels - 1 - self.weight_levels // 2

    def _lowest_weight(self) -> int:
        return self._largest_weight() - (self.weight_levels - 1)

    @torch.no_grad()
    def change_bits(self, bits: LayerBits, *, owns_weight: bool) -> None:
        """Round to other levels from now on; learned steps grow or shrink to keep their ends.

        Args:
            bits: differ from the layer's in the number of bits alone.
            owns_weight: whether the step of the weights is this layer's to change.
        """
        before, self.bits = self.bits, bits
        if self.weight_step is not None:
            # Layers that hold one step have zero points of their own once they have been moved.
            self.weight_zero_point.fill_(self._lowest_weight())
            if owns_weight:
                self.weight_step.mul_(step_factor(before.weight_levels, bits.weight_levels))
        if self.input_quantizer is not None:
            self.input_quantizer.change_levels(self.activation_levels)

    def quantized_weight(self) -> Tensor:
        """Return the values that ``scaled_weight`` is rounded to, shaped as ``weight``."""
        weight = self.scaled_weight()
        if self.bits.weight_bits is None:
            return weight
        if self.weight_step is None:
            return kernels.fake_quant_per_channel(
                weight, self.weight_levels, self.weight_mask, self.bits.weight_scheme
            )
        # Contiguous, because the mask follows the logical order; a layer of one channel counts
        # as one tensor, whose order would be that of its memory.
        return kernels.fake_quant_learned_step(
            weight.contiguous(),
            self.weight_step,
            self.weight_zero_point,
            self.weight_levels,
            self.weight_mask,
            self._step_gradient_scale(),
        )

    def weight_scale(self) -> Tensor:
        """Return the scales S of the weights' values ``i / S``, one for each output channel."""
        if self.weight_step is not None:
            return scale_of_steps(self.weight_step)
        return kernels.quantize_per_channel(
            self.scaled_weight(), self.weight_levels, self.weight_mask, self.bits.weight_scheme
        )[1]

    def _integer_sums(
        self, x: Tensor, weight: Tensor, shift: Tensor | None, call: kernels.ConvCall
    ) -> Tensor:
        """Convolve values in evaluation."""
        assert self.input_quantizer is not None
        scales = self.input_quantizer.scale, self.weight_scale()
        return kernels.conv2d_of_integers(x, scales[0], weight, scales[1], shift, call)

    @abstractmethod
    def combine(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return what the layer computes in float of an input and weights as they are."""

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return x, self.quantized_weight()


def _levels(levels: int | None, what: str) -> int:
    if levels is None:
        # The kind of error that hasattr knows; torch.jit asks modules for everything they have.
        raise AttributeError(f"this layer's {what} in float")
    return levels


def _input_quantizer(bits: LayerBits) -> InputQuantizer | None:
    levels = bits.activation_levels
    if levels is None:
        return None
    if bits.reads_image:
        assert bits.image_mean is not None and bits.image_std is not None
        return ImageQuantizer(bits.image_mean, bits.image_std)
    if bits.activation_step == "learned":
        return LearnedActivationQuantizer(levels, bits.offset, bits.activation_start)
    return ActivationQuantizer(levels, bits.decay)


class QuantizedConv2d(QuantizedLayer, ExactConv2d):
    """A convolution over quantized weights and inputs, with the source's own parameters."""

    def __init__(self, source: nn.Conv2d, bits: LayerBits) -> None:
        ExactConv2d.__init__(self, source)
        self._quantize_like(bits)

    def combine(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution of images with weights as they are."""
        return self.convolve(x, weight)

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (batch, in, height, width) into (batch, out, height', width')."""
        x = input
        if not self._is_computed_here(x):
            return self.convolve(*self._operands(x))
        axes = x.dim()
        if axes == 3:
            return flat_batch(x, 3, self.forward)
        if axes != 4:
            # torch refuses it, in its own words.
            return self.convolve(x, self.weight)
        if self.is_exact:
            codes = self._codes(x)
            if codes is not None:
                call = self._call(codes.size[2:])
                operands = codes, self.scaled_weight(), self._quantized_weights()
                return kernels.LazyTensor.convolve(*operands, self.shift(), call)
        if self.training:
            return self.convolve(*self._operands(x))
        x, weight = self._operands(x.float())
        if not self.is_exact:
            return self.evaluate(x, weight)
        images = self.bordered(x)
        return self._integer_sums(images, weight, self.shift(), self._call(images.shape[-2:]))

    def _images(self, x: Tensor) -> Tensor:
        return self.bordered(x)

    def _call(self, size: torch.Size) -> kernels.ConvCall:
        return kernels.ConvCall(self.activation_levels, self.weight_levels, *self.geometry(size))


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer over quantized weights and, where asked, inputs."""

    def __init__(self, source: nn.Linear, bits: LayerBits) -> None:
        has_bias = source.bias is not None
        nn.Linear.__init__(
            self, source.in_features, source.out_features, bias=has_bias, device="meta"
        )
        self.weight, self.bias = source.weight, source.bias
        self._quantize_like(bits)

    def combine(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the linear map of inputs by weights as they are."""
        return F.linear(x, weight, self.bias)

    @apart
    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` (..., in_features) to (..., out_features)."""
        x = input
        if not self._is_computed_here(x):
            return self.combine(*self._operands(x))
        return self._multiply(x) if x.dim() == 2 else flat_batch(x, 1, self._multiply)

    def _multiply(self, x: Tensor) -> Tensor:
        if self.is_exact:
            codes = self._codes(x[:, :, None, None])
            if codes is not None:
                return self._multiply_codes(codes)
        if self.training:
            return self.combine(*self._operands(x))
        return self._evaluate(x.float())

    def _evaluate(self, x: Tensor) -> Tensor:
        levels, mask = 0, None
        if self.bits.scales_sums:
            # Integers of the weights are summed, and scaled afterwards.
            weight, levels, mask = self.weight, self.weight_levels, self.weight_mask
        else:
            x, weight = self._operands(x)
        if self.is_exact:
            images, kernel = x[:, :, None, None], weight[:, :, None, None]
            return self._integer_sums(images, kernel, self.bias, self._call()).flatten(1)
        exact = kernels.linear_deterministic(x, weight, self.bias, levels, mask)
        return summed(exact, lambda: F.linear(x, self.quantized_weight(), self.bias))

    def _multiply_codes(self, codes: kernels.QuantizedInput) -> Tensor:
        weight = self.weight[:, :, None, None]
        rounding = self._quantized_weights()
        y = kernels.LazyTensor.convolve(codes, weight, rounding, self.bias, self._call())
        return y.flatten(1)

    def _call(self) -> kernels.ConvCall:
        """A linear layer is a convolution of images of one pixel."""
        return kernels.ConvCall(self.activation_levels, self.weight_levels, *_OF_ONE_PIXEL)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Yield the quantized layers of a model and their names, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module
