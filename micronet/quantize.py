"""Layers whose weights and input activations are codes of a few bits while they train.

The master weights stay in float under their usual names; each forward pass quantises them, masked,
per output channel, and quantises the layer's input under a moving-average range. The arithmetic is
``micronet_kernels``' affine scheme, the same in training and evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet import models
from micronet.config import ActivationPrecision, Inherit, QuantizeSection, WeightPrecision
from micronet.errors import UserError
from micronet.layers import match_layers


@dataclass(frozen=True)
class LayerBits:
    """The precision of one layer; None keeps the operand in float."""

    weight_bits: float | None
    activation_bits: float | None
    decay: float = 0.99

    @property
    def weight_levels(self) -> int | None:
        """Number of levels of a weight: ``floor(2**bits)``."""
        return None if self.weight_bits is None else kernels.levels_of_bits(self.weight_bits)

    @property
    def activation_levels(self) -> int | None:
        """Number of levels of an input activation: ``floor(2**bits)``."""
        bits = self.activation_bits
        return None if bits is None else kernels.levels_of_bits(bits)

    @property
    def is_float(self) -> bool:
        """Whether neither operand is quantised."""
        return self.weight_bits is None and self.activation_bits is None


def plan(
    model: nn.Module, section: QuantizeSection, path: str = "<schedule>"
) -> dict[str, LayerBits]:
    """Return the precision of every convolution and linear layer of a model.

    Raises:
        UserError: an override names no layer, nothing is quantised, or the section asks for
            quantised activations and no layer gets any.
    """
    layers = models.layers(model)
    patterns = [override.layers for override in section.overrides]
    assigned = match_layers(layers, patterns, "quantize.overrides", path)
    bits = {}
    for name in layers:
        weights, activations = section.weights, section.activations
        if name in assigned:
            override = section.overrides[assigned[name]]
            weights = _inherit(override.weights, weights)
            activations = _inherit(override.activations, activations)
        bits[name] = _layer_bits(weights, activations)
    _check_plan(bits, section, path)
    return bits


def _inherit(value: Any, default: Any) -> Any:
    return default if isinstance(value, Inherit) else value


def _layer_bits(
    weights: WeightPrecision | None, activations: ActivationPrecision | None
) -> LayerBits:
    return LayerBits(
        weight_bits=None if weights is None else weights.bits,
        activation_bits=None if activations is None else activations.bits,
        decay=0.99 if activations is None else activations.decay,
    )


def _check_plan(bits: Mapping[str, LayerBits], section: QuantizeSection, path: str) -> None:
    if all(layer.is_float for layer in bits.values()):
        raise UserError(f"{path}: the quantize section quantises no layer of this network")
    activations = any(layer.activation_bits is not None for layer in bits.values())
    if section.activations is not None and not activations:
        raise UserError(f"{path}: quantize.activations is set, but no layer's input is quantised")


class ActivationQuantizer(nn.Module):
    """Fake-quantises its input under the bias-corrected moving average of its range.

    Training updates the range with each batch, then quantises that batch; evaluation freezes it.
    The state lives in buffers: ``ema`` and ``range`` are (low, high), ``step`` counts batches.
    """

    ema: Tensor
    range: Tensor
    step: Tensor

    def __init__(self, levels: int, decay: float) -> None:
        super().__init__()
        self.levels, self.decay = levels, decay
        self.register_buffer("ema", torch.zeros(2))
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantised values of ``x``, any shape."""
        if self.training:
            kernels.update_range_(x.detach(), self.ema, self.range, self.step, self.decay)
        return kernels.fake_quant_per_tensor(x, self.range, self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, decay={self.decay}"


class _Quantized(nn.Module):
    """What quantised convolutions and linear layers share."""

    weight: Tensor
    mask: Tensor

    def _quantize_like(self, bits: LayerBits) -> None:
        self.bits = bits
        levels = bits.activation_levels
        self.input_quantizer = ActivationQuantizer(levels, bits.decay) if levels else None
        # Bits of the pruning mask; empty while the layer is dense. The masks of a run are saved
        # once, under their own keys, so this one is not part of the state.
        self.register_buffer("mask", torch.empty(0, dtype=torch.uint8), persistent=False)

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        levels = self.bits.weight_levels
        if levels is None:
            return x, self.weight
        mask = self.mask if self.mask.numel() else None
        return x, kernels.fake_quant_per_channel(self.weight, levels, mask)


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution over quantised weights and inputs, with the source's own parameters."""

    def __init__(self, source: nn.Conv2d, bits: LayerBits) -> None:
        nn.Conv2d.__init__(
            self,
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
        self.same_padding = isinstance(source, Conv2dDynamicSamePadding)
        self._quantize_like(bits)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (batch, in, height, width) into (batch, out, height', width')."""
        x, weight = self._operands(x)
        if self.same_padding:
            # The code of a padded zero is the code of zero, so padding after quantising is exact.
            x = F.pad(x, self._same_padding(x.shape[-2:]))
        return self._conv_forward(x, weight, self.bias)

    def _same_padding(self, size: torch.Size) -> list[int]:
        """Return (left, right, top, bottom) that make the output ``ceil(size / stride)``."""
        padding: list[int] = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            padding = [total // 2, total - total // 2, *padding]
        return padding


class QuantizedLinear(_Quantized, nn.Linear):
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
        x, weight = self._operands(x)
        return F.linear(x, weight, self.bias)


def convert_(model: nn.Module, bits: Mapping[str, LayerBits]) -> None:
    """Replace every layer that ``bits`` quantises, in place; parameters stay the same objects.

    Raises:
        UserError: a layer is of a kind that cannot be quantised, or is no layer of this model.
    """
    layers = models.layers(model)
    for name, layer_bits in bits.items():
        if name not in layers:
            raise UserError(f"quantised layer {name!r} is no layer of this network")
        if layer_bits.is_float or isinstance(layers[name], _Quantized):
            continue
        source = layers[name]
        new: nn.Module
        if isinstance(source, nn.Conv2d) and _is_plain_convolution(source):
            new = QuantizedConv2d(source, layer_bits)
        elif type(source) is nn.Linear:
            new = QuantizedLinear(source, layer_bits)
        else:
            kind = type(source).__name__
            hint = "set its weights and activations to null in quantize.overrides"
            raise UserError(f"layer {name!r} ({kind}) cannot be quantised: {hint}")
        parent, _, child = name.rpartition(".")
        new.train(source.training)
        setattr(model.get_submodule(parent), child, new.to(source.weight.device))


def _is_plain_convolution(source: nn.Conv2d) -> bool:
    # Exact types: a subclass may use its weight without calling forward, as attention does.
    if isinstance(source, Conv2dStaticSamePadding):
        # EfficientNet's squeeze-excite layers, whose fixed padding is none.
        return isinstance(source.static_padding, nn.Identity)
    return type(source) in (nn.Conv2d, Conv2dDynamicSamePadding)


def share_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Give quantised layers the bits of their pruning masks, which their weight op fuses."""
    for name, layer in models.layers(model).items():
        if isinstance(layer, _Quantized) and name in masks:
            layer.mask = masks[name].to(layer.weight.device)


def bits_to_dict(bits: Mapping[str, LayerBits]) -> dict[str, dict[str, float | None]]:
    """Turn a plan into plain data for a checkpoint's header."""
    return {name: dataclasses.asdict(layer) for name, layer in bits.items()}


def bits_from_dict(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, LayerBits]:
    """Read a plan back from a checkpoint's header."""
    return {name: LayerBits(**layer) for name, layer in plain.items()}


def unready(model: nn.Module) -> list[str]:
    """Return the activation quantisers that have never seen a training batch."""
    quantizers = (
        (name, m) for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)
    )
    return [name for name, m in quantizers if int(m.step) == 0]


def broken_ranges(model: nn.Module) -> list[str]:
    """Return the layers whose input held a NaN or an infinity, in module order."""
    return [
        name.removesuffix(".input_quantizer")
        for name, m in model.named_modules()
        if isinstance(m, ActivationQuantizer) and not bool(torch.isfinite(m.range).all())
    ]
