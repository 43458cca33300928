"""A network's tensors for its original code: the values that layers compute with, in float32.

Names are those that the network had before it was quantized, so that torchvision or timm load them
strictly. Nothing of this needs the graph.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.artifact.format.document import About
from micronet.artifact.network import PackedNetwork
from micronet.artifact.quantizers import scale_and_zero_points
from micronet.models import architectures, shared_layers
from micronet.models.shared_layers import weight_key
from micronet.pruning.prune import Masks
from micronet.quantization import quantize
from micronet.quantization.faults import require_sound
from micronet.quantization.layers import QuantizedLayer
from micronet.recipe.strict import to_plain
from micronet.utils.errors import UserError

FORMAT, VERSION = "micronet-state-dict", 1


def to_bytes(model: nn.Module, name: str) -> bytes:
    """Return a safetensors file of a network's ``state_dict`` without anything of quantizers.

    Weights of levels are their float32 values ``i / S``, pruned ones 0; all else is as it is. Of a
    layer that reads grey values they are divided by what it multiplies them by, for the normalized
    images that the network takes. A tensor of several names is written under each.

    Args:
        model: quantized, pruned or both.
        name: of the network, for messages.

    Raises:
        UserError: it is a packed network, whose normalizations are gone; its quantizers have seen
            no data; or its state holds something else than tensors.
    """
    if isinstance(model, PackedNetwork):
        raise UserError(
            f"{name} is packed, its normalizations taken into its layers: export the network that "
            "it is of as a state dict"
        )
    if uninitialized := quantize.uninitialized(model):
        raise UserError(f"{name}: quantizer {uninitialized[0]!r} has never seen data")
    require_sound(model, f"{name} cannot be exported: ")
    tensors: dict[str, Tensor] = {}
    replaced = _weights(model)
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise UserError(f"{name} cannot be exported: {key!r} is no tensor with values")
        if not _is_of_quantizer(model, key):
            tensors[key] = replaced.get(key, value).detach().cpu().contiguous().clone()
    # The one entry that transformers wants; several would have no fixed order.
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


@torch.no_grad()
def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return what layers multiply by, under every name that their weights have."""
    names, owners = shared_layers.all_names(model), shared_layers.owners(model)
    masks = Masks.of(model).bits
    found: dict[str, Tensor] = {}
    for first, layer in architectures.layers(model).items():
        weight = layer._parameters.get("weight")
        if weight is None:
            continue
        value: Tensor = weight
        if isinstance(layer, QuantizedLayer):
            value = layer.quantized_weight() / layer.weight_factors()
        bits = masks.get(owners[first], getattr(layer, "weight_mask", None))
        if bits is not None:
            value = value * kernels.unpack_bits(bits, value.numel()).view(value.shape)
        found |= {weight_key(name): value + 0.0 for name in names[first]}
    return found


def _is_of_quantizer(model: nn.Module, key: str) -> bool:
    """Whether a tensor is one that quantized layers have besides those of their sources."""
    *path, last = key.split(".")
    for depth in range(len(path) + 1):
        if isinstance(model.get_submodule(".".join(path[:depth])), QuantizedLayer):
            return last == "weight_step" or "input_quantizer" in path[depth:]
    return False


def config(
    model: nn.Module, content: bytes, shape: tuple[int, int, int], about: About
) -> dict[str, Any]:
    """Return what is known of the tensors, as plain data of JSON.

    Args:
        model: as of ``to_bytes``.
        content: what that returned.
        shape: of an image, [C, H, W].
        about: what else is known.
    """
    created = architectures.created_as(model)
    return {
        "format": FORMAT,
        "version": VERSION,
        "input": list(shape),
        "about": {key: v for key, v in to_plain(about).items() if v is not None},
        "num_classes": None if created is None else created.num_classes,
        "layers": {
            name: _described(layer)
            for name, layer in architectures.layers(model).items()
            if isinstance(layer, QuantizedLayer)
        },
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _described(layer: QuantizedLayer) -> dict[str, Any]:
    """Return the levels of a layer's weights, and how its input was rounded."""
    quantizer = layer.input_quantizer
    found: dict[str, Any] = {"weight_levels": layer.bits.weight_levels, "input": None}
    if layer.bits.reads_image:
        found["input"] = "grey values"
    elif quantizer is not None:
        scale, (zero_point,) = scale_and_zero_points(quantizer)
        levels = {"levels": quantizer.levels, "zero_point": zero_point}
        found["input"] = levels | {"scale": float(scale)}
    return found


def to_json(document: dict[str, Any]) -> bytes:
    """Return the text of a ``config.json``."""
    return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
