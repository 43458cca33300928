"""What tensors of a file may hold before a network takes them: right shapes, and usable values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures, custom, shared_layers
from micronet.models.architectures import Created
from micronet.models.meta_device import meta_device
from micronet.models.weights import fitted
from micronet.pruning.prune import Masks
from micronet.quantization import quantize, shared_weights
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantize import LayerBits
from micronet.quantization.quantizers.inputs import ActivationQuantizer
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer, is_invalid
from micronet.utils.errors import UserError


def structure_of(
    created: Created, bits: Mapping[str, LayerBits], state: Mapping[str, Tensor], path: str | Path
) -> nn.Module | None:
    """Return an architecture without memory, once tensors were held to its names and shapes.

    Of how many classes a network is to be, a file may say anything. One of a user's own is not
    looked at, because that would run its code.

    Args:
        created: what ``create_model`` is asked for.
        bits: precision by layer.
        state: the tensors, each under one of its names at least.
        path: where they come from, for messages.

    Raises:
        UserError: there is no such architecture or layer, or a tensor does not fit.
    """
    if custom.is_own(created.arch):
        return None
    # Constructors draw initial weights, some of them on the CPU.
    with torch.random.fork_rng(devices=[]), meta_device():
        model = architectures.create_model(
            created.arch, created.num_classes, channels=created.channels
        )
        quantize.convert_(model, bits)
    fitted(model, state, path)
    return model


@torch.no_grad()
def check(model: nn.Module, state: Mapping[str, Tensor], masks: Masks) -> None:
    """Hold the tensors of a network to values that it can compute with.

    Args:
        model: the network, its quantized layers in place.
        state: its tensors under all of its names, of the right shapes.
        masks: of its weights.

    Raises:
        UserError: layers hold one weight at different precision, a parameter is not finite, another
            tensor is NaN, a range or a step is none, or a mask does not belong to the network or
            prunes weights that are not zero.
    """
    if bits := quantize.precision_of(model):
        shared_weights.check_precision(model, bits)
    unset = set()
    for name, layer in quantized_layers(model):
        start = f"{name}." if name else ""
        if layer.weight_step is not None:
            _check_step(state, f"{start}weight_step")
        if isinstance(layer.input_quantizer, LearnedActivationQuantizer):
            unset |= _check_learned(state, f"{start}input_quantizer.", layer.activation_levels)
        elif isinstance(layer.input_quantizer, ActivationQuantizer):
            _check_range(state, f"{start}input_quantizer.")
    _check_finite(model, {name: value for name, value in state.items() if name not in unset})
    _check_masks(model, state, masks)


def _check_step(state: Mapping[str, Tensor], name: str) -> None:
    if bool(is_invalid(state[name].float()).any()):
        raise UserError(f"{name!r} holds a step that is not positive")


def _check_learned(state: Mapping[str, Tensor], start: str, levels: int) -> set[str]:
    """Hold a learned step of inputs to being one; return the zero point that is none yet, if so."""
    _check_step(state, f"{start}step_size")
    name = f"{start}zero_point"
    zero = float(state[name])
    if zero != zero:
        return {name}
    if not (1 - levels <= zero <= 0 and zero.is_integer()):
        raise UserError(f"{name!r} is {zero}, which is no zero point of {levels} levels")
    return set()


def _check_range(state: Mapping[str, Tensor], start: str) -> None:
    for key in ("range", "ema"):
        low, high = state[f"{start}{key}"].float()
        if not bool(torch.isfinite(high - low)):
            raise UserError(f"'{start}{key}' is ({low}, {high}), which is no range")
    if (count := int(state[f"{start}step"])) < 0:
        raise UserError(f"'{start}step' is {count}, which is no number of batches")


def _check_finite(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, own in model.state_dict().items():
        if name in state and (own.is_floating_point() or own.is_complex()):
            # As the network takes it: a double may be too large for a float.
            value = state[name].to(own.dtype)
            well = torch.isfinite(value) if name in parameters else ~value.isnan()
            if not bool(well.all()):
                raise UserError(f"{name!r} holds values that are not finite")


def _check_masks(model: nn.Module, state: Mapping[str, Tensor], masks: Masks) -> None:
    masks.check(model)
    owners = shared_layers.owners(model)
    for layer, bits in masks.bits.items():
        weight = state.get(shared_layers.weight_key(layer))
        if weight is None or owners[layer] != layer:
            raise UserError(f"mask {layer!r} is not by the layer that its weight belongs to")
        keep = kernels.unpack_bits(bits, weight.numel()).view(weight.shape)
        if bool(weight[~keep].any()):
            raise UserError(f"the mask of layer {layer!r} prunes weights that are not zero")
