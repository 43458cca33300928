"""Which layers can be quantized."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from micronet.models import architectures, shared_layers, timm_networks
from micronet.quantization import shared_weights
from micronet.quantization.deterministic_layers import FloatConv2d, FloatLinear
from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.plain_weights import check_weight, computed, has_plain_parameters
from micronet.quantization.precision import LayerBits
from micronet.recipe.schema import IMAGE
from micronet.utils.errors import UserError

_READS = f"an input of step {IMAGE} is that of the convolution that reads them"


def check_layers(model: nn.Module, bits: Mapping[str, LayerBits], where: str = "") -> None:
    """Hold the layers that are quantized to being of a kind that can be.

    Args:
        model: whose layers they are.
        bits: precision of every layer.
        where: how a message begins.

    Raises:
        UserError: a layer is not, or its weight is used elsewhere at another precision.
    """
    hint = "set its weights and activations to null in quantize.overrides"
    for name, layer in architectures.layers(model).items():
        if bits[name].is_float or isinstance(layer, QuantizedLayer):
            continue
        check_weight(name, layer, "quantized", where, f"; {hint}")
        if bits[name].reads_image and not isinstance(layer, nn.Conv2d):
            kind = type(layer).__name__
            raise UserError(f"{where}layer {name!r} ({kind}) is no convolution of images: {_READS}")
        if not (is_plain_convolution(layer) or is_plain_linear(layer)):
            kind = type(layer).__name__
            raise UserError(f"{where}layer {name!r} ({kind}) cannot be quantized: {hint}")
        if reason := _wrong_type(layer):
            raise UserError(f"{where}layer {name!r} cannot be quantized: {reason}; {hint}")
    if any(layer.weight_bits is not None for layer in bits.values()):
        shared_layers.check_memory(model, where)
        shared_weights.check_precision(model, bits, where)


def without_others(
    model: nn.Module, bits: Mapping[str, LayerBits], named: Collection[str]
) -> dict[str, LayerBits]:
    """Return precisions that leave in float what is of no kind that can be quantized.

    Args:
        model: whose layers they are.
        bits: precision of every layer.
        named: layers whose precision was asked for by name or pattern, which stays as it is: one
            that cannot have it is refused by ``check_layers``.
    """
    layers = architectures.layers(model)
    return {
        name: own
        if own.is_float or name in named or (reason := _obstacle(layers[name])) is None
        else LayerBits(None, None, left_because=reason)
        for name, own in bits.items()
    }


def _obstacle(layer: architectures.Layer) -> str | None:
    """Return why a layer cannot be quantized, None where it can be."""
    if isinstance(layer, QuantizedLayer):
        return None
    if is_plain_convolution(layer) or is_plain_linear(layer):
        return _wrong_type(layer)
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return "torch's attention multiplies by its weight without calling it"
    return computed(layer) or f"no quantized layer takes the place of {type(layer).__name__}"


def _wrong_type(layer: architectures.Layer) -> str | None:
    dtype = layer.weight.dtype
    if dtype == torch.float32:
        return None
    return f"its weights are {str(dtype).removeprefix('torch.')}, but codes are made of float32"


def is_plain_convolution(source: nn.Module) -> bool:
    """Whether a layer is one of the convolutions that quantized and exact ones stand in for."""
    # Exact types: a subclass may use its weight without calling forward, as attention does.
    if not has_plain_parameters(source):
        return False
    if isinstance(source, Conv2dStaticSamePadding):
        # EfficientNet's squeeze-excite layers, whose fixed padding is none.
        return isinstance(source.static_padding, nn.Identity)
    known = nn.Conv2d, Conv2dDynamicSamePadding, FloatConv2d
    return type(source) in (*known, *timm_networks.same_padding_layers())


def is_plain_linear(source: nn.Module) -> bool:
    """Whether a layer is a linear layer as torch, or timm for TorchScript's sake, has it."""
    known = nn.Linear, FloatLinear, *timm_networks.linear_layers()
    return has_plain_parameters(source) and type(source) in known
