"""Which layers of a network compute in a few bits, and the network with those layers in place.

``plan`` holds a schedule to a network; ``convert_`` replaces its layers by quantized ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures, shared_layers
from micronet.models.plain_swish import use_plain_swish_
from micronet.models.replacement import replace_
from micronet.quantization.deterministic_layers import FloatConv2d, FloatLinear, MeanPool2d
from micronet.quantization.eligibility import (
    check_layers,
    is_plain_convolution,
    is_plain_linear,
    without_others,
)
from micronet.quantization.evaluation.exact_functions import evaluate_exactly_
from micronet.quantization.evaluation.fast_paths import leave_fast_paths_
from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.layers import (
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    quantized_layers,
)
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers.images import GREY_BITS
from micronet.quantization.quantizers.inputs import ActivationQuantizer
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer, is_invalid
from micronet.quantization.sync_batch_norm import synchronize_in_integers_
from micronet.recipe.layer_patterns import assign_layers
from micronet.recipe.schema import IMAGE, ActivationPrecision, QuantizeSection, WeightPrecision
from micronet.recipe.strict import Inherit
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError


def plan(
    model: nn.Module, section: QuantizeSection, path: str = "<schedule>"
) -> dict[str, LayerBits]:
    """Return the precision of every convolution and linear layer of a model.

    A layer that cannot be quantized stays in float where only the section's defaults reach it.

    Raises:
        UserError: an override names no layer, two want different things of one, nothing is
            quantized, the section asks for quantized activations and no layer gets any, or a
            layer that an override means to quantize cannot be.
    """
    layers = architectures.layers(model)
    by_key = {f"quantize.overrides[{i}].layers": o for i, o in enumerate(section.overrides)}
    patterns = {key: override.layers for key, override in by_key.items()}
    names = shared_layers.all_names(model)
    assigned = assign_layers(
        names, patterns, path, lambda key: dataclasses.replace(by_key[key], layers=())
    )
    bits = {}
    for name in layers:
        weights, activations = section.weights, section.activations
        if name in assigned:
            override = by_key[assigned[name]]
            weights = _inherit(override.weights, weights)
            activations = _inherit(override.activations, activations)
        bits[name] = _layer_bits(weights, activations)
    bits = without_others(model, bits, assigned)
    _check_plan(bits, section, path)
    check_layers(model, bits, f"{line_of(path, 'quantize')}: ")
    return bits


def _inherit(value: Any, default: Any) -> Any:
    return default if isinstance(value, Inherit) else value


def _layer_bits(
    weights: WeightPrecision | None, activations: ActivationPrecision | None
) -> LayerBits:
    bits = LayerBits(None, None)
    if weights is not None:
        own = _bits_of(weights)
        bits = dataclasses.replace(
            bits, weight_bits=own, weight_step=weights.step, symmetric=weights.symmetric
        )
    if activations is not None:
        bits = dataclasses.replace(
            bits,
            activation_bits=_bits_of(activations),
            decay=activations.decay,
            activation_step=activations.step,
            offset=activations.offset,
            activation_start=activations.start,
        )
    return bits


def _bits_of(precision: WeightPrecision | ActivationPrecision) -> float:
    """Return the bits of a precision that a recipe gives in bits or in levels."""
    if precision.step == IMAGE:
        return GREY_BITS
    if precision.levels is not None:
        return kernels.bits_of_levels(precision.levels)
    assert precision.bits is not None
    return precision.bits


def _check_plan(bits: Mapping[str, LayerBits], section: QuantizeSection, path: str) -> None:
    if all(layer.is_float for layer in bits.values()):
        raise UserError(f"{line_of(path, 'quantize')}: quantize quantizes no layer of this network")
    activations = any(layer.activation_bits is not None for layer in bits.values())
    if section.activations is not None and not activations:
        key = "quantize.activations"
        raise UserError(f"{line_of(path, key)}: {key} is set, but no layer's input is quantized")


def convert_(
    model: nn.Module, bits: Mapping[str, LayerBits], masks: Mapping[str, Tensor] | None = None
) -> None:
    """Turn every layer that ``bits`` quantizes into a quantized one; parameters stay the same.

    Args:
        model: its modules keep their names.
        bits: precision by layer, layers without an entry being left as they are.
        masks: pruning masks by layer, shared with the new layers; learned steps start from the
            weights that they keep.

    Raises:
        UserError: a layer is of a kind that cannot be quantized, or is no layer of this model.
    """
    layers = architectures.layers(model)
    for name, own in bits.items():
        if name not in layers:
            raise UserError(f"quantized layer {name!r} is no layer of this network")
        if own.reads_image and own.image_mean is None:
            raise UserError(f"how the images of layer {name!r} are normalized is not known")
    every = {name: bits.get(name, _precision(layer)) for name, layer in layers.items()}
    check_layers(model, every)
    new = [
        name
        for name, layer in layers.items()
        if not every[name].is_float and not isinstance(layer, QuantizedLayer)
    ]
    for name in new:
        replace_(layers[name], _quantized(layers[name], every[name]))
    share_masks(model, masks or {})
    _start_weight_steps(model, new)
    if new:
        use_plain_swish_(model)
        synchronize_in_integers_(model)
        leave_fast_paths_(model)
        _evaluate_floats_exactly(model)
        evaluate_exactly_(model)


def precision_of(model: nn.Module) -> dict[str, LayerBits]:
    """Return the precision of every layer, if any is quantized; else nothing."""
    bits = {name: _precision(layer) for name, layer in architectures.layers(model).items()}
    return {} if all(layer.is_float for layer in bits.values()) else bits


def _precision(layer: nn.Module) -> LayerBits:
    return layer.bits if isinstance(layer, QuantizedLayer) else LayerBits(None, None)


def _start_weight_steps(model: nn.Module, names: Collection[str]) -> None:
    """Give newly quantized layers the steps of their weights to learn, one set for each weight."""
    owners = shared_layers.owners(model)
    for name, layer in quantized_layers(model):
        if name not in names or layer.bits.weight_bits is None or layer.has_weight_range:
            continue
        owner = model.get_submodule(owners[name])
        if owner is layer:
            layer.start_weight_steps()
        else:
            assert isinstance(owner, QuantizedLayer)
            layer.weight_step = owner.weight_step
            layer.register_buffer("weight_zero_point", owner.weight_zero_point, persistent=False)


def _evaluate_floats_exactly(model: nn.Module) -> None:
    """Turn the plain layers and means that stay in float; parameters stay the same objects."""
    for layer in architectures.layers(model).values():
        if isinstance(layer, (QuantizedLayer, FloatConv2d, FloatLinear)):
            continue
        if isinstance(layer, nn.Conv2d) and is_plain_convolution(layer):
            replace_(layer, FloatConv2d(layer))
        elif isinstance(layer, nn.Linear) and is_plain_linear(layer):
            replace_(layer, FloatLinear(layer))
    for module in list(model.modules()):
        if MeanPool2d.replaces(module):
            replace_(module, MeanPool2d(module))


def _quantized(source: nn.Module, bits: LayerBits) -> QuantizedLayer:
    new: QuantizedLayer
    if isinstance(source, nn.Conv2d):
        new = ImageConv2d(source, bits) if bits.reads_image else QuantizedConv2d(source, bits)
    else:
        assert isinstance(source, nn.Linear)
        new = QuantizedLinear(source, bits)
    return new.to(new.weight.device)


def share_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Give quantized layers the bits of their weights' pruning masks, which their weight op fuses.

    Args:
        model: whose layers they are.
        masks: by the layer that owns the weight.
    """
    owners = shared_layers.owners(model)
    for name, layer in quantized_layers(model):
        if owners[name] in masks:
            layer.mask = masks[owners[name]].to(layer.weight.device)


def bits_to_dict(bits: Mapping[str, LayerBits]) -> dict[str, dict[str, Any]]:
    """Turn a plan into plain data for a checkpoint's header."""
    return {name: layer.to_plain() for name, layer in bits.items()}


def bits_from_dict(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, LayerBits]:
    """Read a plan back from a checkpoint's header."""
    return {name: LayerBits(**layer) for name, layer in plain.items()}


def uninitialized(model: nn.Module) -> list[str]:
    """Return the activation quantizers that have never seen a training batch."""
    return [
        f"{name}.input_quantizer"
        for name, layer in quantized_layers(model)
        if layer.input_quantizer is not None and not layer.input_quantizer.is_ready()
    ]


def input_ranges(model: nn.Module) -> dict[str, Tensor]:
    """Return the range (low, high) of each input that follows one, in module order."""
    return {
        name: layer.input_quantizer.range
        for name, layer in quantized_layers(model)
        if isinstance(layer.input_quantizer, ActivationQuantizer)
    }


def nonfinite_ranges(model: nn.Module) -> list[str]:
    """Return the layers whose input held a NaN or an infinity, in module order."""
    ranges = input_ranges(model)
    return [name for name, ends in ranges.items() if not bool(torch.isfinite(ends).all())]


@torch.no_grad()
def nonfinite_inputs(model: nn.Module, images: Tensor) -> list[str]:
    """Return the quantized layers whose input is not finite, in execution order.

    Runs the model on ``images`` once more, because a learned step keeps no trace of its input.
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not bool(torch.isfinite(inputs[0]).all()):
                found.append(name)

        return look

    hooks = [
        layer.register_forward_pre_hook(watch(name)) for name, layer in quantized_layers(model)
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def learned_steps(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are steps of quantizers, each by what it is the step of."""
    steps: dict[str, nn.Parameter] = {}
    owners = shared_layers.owners(model)
    for name, layer in quantized_layers(model):
        if layer.weight_step is not None and owners[name] == name:
            steps[f"the weights of layer {name!r}"] = layer.weight_step
        if isinstance(layer.input_quantizer, LearnedActivationQuantizer):
            steps[f"the input of layer {name!r}"] = layer.input_quantizer.step_size
    return steps


@torch.no_grad()
def invalid_steps(steps: Mapping[str, Tensor]) -> dict[str, float]:
    """Map each invalid step size (not positive, or not finite) to its first bad value."""
    invalid = {owner: step[is_invalid(step)] for owner, step in steps.items()}
    return {owner: float(values[0]) for owner, values in invalid.items() if values.numel()}


def reread_zero_points(model: nn.Module) -> None:
    """Let learned quantizers take what they know on the host from their buffers again."""
    for _, layer in quantized_layers(model):
        if isinstance(layer.input_quantizer, LearnedActivationQuantizer):
            layer.input_quantizer.read_zero_point()
