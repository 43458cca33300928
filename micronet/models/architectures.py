"""Networks by name, and the names of their layers."""

from __future__ import annotations

import functools
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import efficientnet_pytorch
import torch
from efficientnet_pytorch.utils import url_map
from torch import nn
from torch.nn.modules.conv import _ConvNd

from micronet.data.preprocessing import Preprocessing
from micronet.models import custom, timm_networks
from micronet.models.replacement import options_of, replace_
from micronet.models.small import networks
from micronet.models.weights import load_weights
from micronet.utils.errors import UserError, nearest
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    import torchvision
else:
    torchvision = lazy("torchvision")

__all__ = [
    "architectures",
    "classifier_name",
    "create_model",
    "created_as",
    "default_image_size",
    "layers",
    "load_weights",
    "preprocessing",
    "source_of",
    "stem_name",
]

Layer: TypeAlias = _ConvNd | nn.Linear

_EFFICIENTNETS = tuple(f"efficientnet-b{size}" for size in range(8))


@dataclass(frozen=True)
class Created:
    """What ``create_model`` was asked for."""

    arch: str
    num_classes: int
    channels: int


_created: weakref.WeakKeyDictionary[nn.Module, Created] = weakref.WeakKeyDictionary()


def create_model(
    arch: str, num_classes: int, *, channels: int = 3, pretrained: bool = False
) -> nn.Module:
    """Build a network that maps images (N, channels, H, W) to logits (N, num_classes).

    ``arch`` may be a user's own, see ``models.custom``, or timm's, see ``models.timm_networks``.
    EfficientNet's convolutions pad "SAME" for the image at hand, as its paper does, and not for a
    size fixed in advance. The auxiliary heads of GoogLeNet and Inception are left out.

    Raises:
        UserError: no such architecture, it has no published weights, or they cannot be fetched.
    """
    model = _create(arch, num_classes, channels, pretrained)
    _created[model] = Created(arch, num_classes, channels)
    return model


def created_as(model: nn.Module) -> Created | None:
    """Return how ``create_model`` made this network, None where something else did."""
    return _created.get(model)


def source_of(arch: str) -> str:
    """Return where an architecture comes from: a package's name, or ``own``."""
    if timm_networks.is_timm(arch):
        return "timm"
    if custom.is_own(arch):
        return "own"
    if arch in _EFFICIENTNETS:
        return "efficientnet_pytorch"
    return "micronet" if arch in networks.NETWORKS else "torchvision"


def _create(arch: str, num_classes: int, channels: int, pretrained: bool) -> nn.Module:
    if custom.is_own(arch):
        return _own(arch, num_classes, channels, pretrained)
    _check_known(arch)
    if num_classes < 1 or channels < 1:
        raise UserError(f"{arch} cannot have {num_classes} classes and {channels} channels")
    if pretrained and channels != 3:
        raise UserError(f"the published weights of {arch} need 3 channels, not {channels}")
    if timm_networks.is_timm(arch):
        return timm_networks.create(arch, num_classes, channels, pretrained=pretrained)
    if pretrained:
        return _pretrained(arch, num_classes)
    return _untrained(arch, num_classes, channels)


@functools.cache
def architectures() -> list[str]:
    """Return the names that ``create_model`` knows."""
    known = torchvision.models.list_models(module=torchvision.models)
    return [*_EFFICIENTNETS, *networks.NETWORKS, *known]


def default_image_size(arch: str) -> int:
    """Return the side in pixels of the images that ``arch`` was designed for.

    Raises:
        UserError: no such architecture, or it is a user's own.
    """
    if custom.is_own(arch):
        raise UserError(f"{arch} has no image size of its own: give --image-size")
    if (wanted := preprocessing(arch)) is not None:
        return wanted.image_size
    _check_known(arch)
    if arch in _EFFICIENTNETS:
        return efficientnet_pytorch.EfficientNet.get_image_size(arch)
    if arch in networks.NETWORKS:
        return networks.IMAGE_SIZE
    return torchvision.models.get_model_weights(arch).DEFAULT.transforms().crop_size[0]


def preprocessing(arch: str | None) -> Preprocessing | None:
    """Return how an architecture wants its images prepared, None where the data decide.

    Raises:
        UserError: it is timm's, and timm does not have it.
    """
    return timm_networks.preprocessing(arch) if arch and timm_networks.is_timm(arch) else None


def transforms_input(model: nn.Module) -> bool:
    """Whether a network scales its images itself, as published GoogLeNet and Inception v3 do.

    They were trained with other means and deviations than torchvision gives images now. A network
    of the same architecture that was not pretrained does not.
    """
    return bool(getattr(model, "transform_input", False))


def transform_input_(model: nn.Module) -> None:
    """Let a network of such an architecture scale its images itself."""
    vars(model)["transform_input"] = True


def _check_known(arch: str) -> None:
    # Torchvision is asked last, as it is imported for that.
    if timm_networks.is_timm(arch) or arch in (*_EFFICIENTNETS, *networks.NETWORKS):
        return
    if arch not in architectures():
        raise UserError(f"there is no architecture {arch!r}{nearest(arch, architectures())}")


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return every convolution and linear layer by its first module name, in module order."""
    kinds = (_ConvNd, nn.Linear)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds)}


def stem_name(model: nn.Module) -> str:
    """Return the name of the first convolution, or of the first layer where none is one.

    Raises:
        UserError: the network has no layer.
    """
    found = layers(model)
    convolutions = [name for name, layer in found.items() if isinstance(layer, _ConvNd)]
    # LeNet-300-100 and its like are linear throughout.
    names = convolutions or list(found)
    if not names:
        raise UserError(f"{type(model).__name__} has no convolution and no linear layer")
    return names[0]


def classifier_name(model: nn.Module) -> str:
    """Return the name of the last linear layer, or of the last layer where none is linear.

    Raises:
        UserError: the network has no layer.
    """
    found = layers(model)
    linear = [name for name, layer in found.items() if isinstance(layer, nn.Linear)]
    # SqueezeNet classifies with a 1x1 convolution.
    names = linear or list(found)
    if not names:
        raise UserError(f"{type(model).__name__} has no convolution and no linear layer")
    return names[-1]


def _own(arch: str, num_classes: int, channels: int, pretrained: bool) -> nn.Module:
    if pretrained:
        raise UserError(f"there are no published weights for {arch}: give --weights")
    if channels != 3:
        raise UserError(f"{arch} is called without a number of channels, but needs {channels}")
    return custom.build(arch, num_classes)


def _untrained(arch: str, num_classes: int, channels: int) -> nn.Module:
    if arch in _EFFICIENTNETS:
        return efficientnet_pytorch.EfficientNet.from_name(
            arch, in_channels=channels, num_classes=num_classes, image_size=None
        )
    if arch in networks.NETWORKS:
        return networks.NETWORKS[arch](num_classes, channels)
    options: dict[str, object] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif arch.startswith("vit_"):
        # Its position embedding is sized by the image.
        options = {"image_size": default_image_size(arch)}
    device = torch.get_default_device()
    # RegNet computes its widths with tensors, which must hold values even for a meta network.
    with torch.device("cpu" if arch.startswith("regnet_") else device):
        model = torchvision.models.get_model(arch, num_classes=num_classes, **options).to(device)
    if channels != 3:
        _replace_layer(model, stem_name(model), channels=channels)
    return model


def _pretrained(arch: str, num_classes: int) -> nn.Module:
    if arch in networks.NETWORKS:
        raise UserError(f"there are no published weights for {arch}; train it, or give --weights")
    try:
        if arch in _EFFICIENTNETS:
            return _pretrained_efficientnet(arch, num_classes)
        model = torchvision.models.get_model(arch, weights="DEFAULT", progress=_progress())
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot fetch the published weights of {arch}: {error}") from None
    if num_classes != 1000:
        _replace_layer(model, classifier_name(model), outputs=num_classes)
    # Inception's published weights come with its auxiliary head attached.
    if arch == "inception_v3":
        model.aux_logits, model.AuxLogits = False, None
    return model


def _pretrained_efficientnet(arch: str, num_classes: int) -> nn.Module:
    model = _untrained(arch, num_classes, 3)
    state = torch.hub.load_state_dict_from_url(
        url_map[arch], map_location="cpu", progress=_progress(), check_hash=True, weights_only=True
    )
    if num_classes != 1000:
        state |= {name: own for name, own in model.state_dict().items() if name.startswith("_fc.")}
    model.load_state_dict(state)
    return model


def _progress() -> bool:
    return sys.stderr.isatty()


def _replace_layer(
    model: nn.Module, name: str, *, channels: int | None = None, outputs: int | None = None
) -> None:
    """Put a fresh layer with other numbers of inputs or outputs in place of ``name``."""
    old = model.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        sizes = channels or old.in_channels, outputs or old.out_channels
        new = nn.Conv2d(*sizes, **options_of(old))
    elif isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, outputs or old.out_features, old.bias is not None)
    else:
        raise UserError(f"layer {name!r} ({type(old).__name__}) cannot be replaced")
    replace_(old, new)
