"""How the images that a layer reads are normalized: told to the layer, and held to the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from micronet.data.preprocessing import Statistics
from micronet.models import architectures
from micronet.quantization.precision import LayerBits
from micronet.recipe.schema import IMAGE
from micronet.utils.errors import UserError


def with_moments(
    model: nn.Module,
    bits: Mapping[str, LayerBits],
    moments: Statistics | None,
    earlier: Mapping[str, LayerBits],
    where: str = "",
) -> dict[str, LayerBits]:
    """Return precisions whose layers that read images know how these are normalized.

    Args:
        model: whose layers they are.
        bits: precision by layer.
        moments: mean and standard deviation of each channel of pixels in [0, 1], by which images
            are normalized; None where only an earlier precision could say.
        earlier: the precision of layers that are quantized already.
        where: how a message begins.

    Raises:
        UserError: it is not known, a layer has other channels, or 256 grey values cannot be told
            apart.
    """
    layers = architectures.layers(model)
    found = dict(bits)
    for name, own in bits.items():
        if not own.reads_image:
            continue
        known = next(_moments({name: earlier.get(name)}), None)
        # What is the same in float32 is the same.
        given = known if moments is None or are_same(known, moments) else moments
        if given is None:
            raise UserError(
                f"{where}layer {name!r} is to read grey values, but how its images are normalized "
                "is not known: give their mean and std"
            )
        mean, std = given
        channels = getattr(layers[name], "in_channels", None)
        if channels != len(mean):
            raise UserError(
                f"{where}layer {name!r} has {channels} input channels, but images have "
                f"{len(mean)}: step {IMAGE} is of the layer that reads them"
            )
        try:
            found[name] = dataclasses.replace(own, image_mean=mean, image_std=std)
        except ValueError as error:
            raise UserError(f"{where}layer {name!r} cannot read grey values: {error}") from None
    return found


def _moments(bits: Mapping[str, LayerBits | None]) -> Iterator[Statistics]:
    for own in bits.values():
        if own is not None and own.image_mean is not None and own.image_std is not None:
            yield own.image_mean, own.image_std


def are_same(first: Statistics | None, second: Statistics) -> bool:
    """Whether two normalizations are the same numbers in float32, in which layers have them."""
    if first is None or any(len(a) != len(b) for a, b in zip(first, second, strict=True)):
        return False
    one, other = (torch.tensor([*mean, *std], dtype=torch.float32) for mean, std in (first, second))
    return torch.equal(one, other)


def moments_of(bits: Mapping[str, LayerBits]) -> Statistics | None:
    """Return how a network's images are normalized, where its layers know it."""
    return next(_moments(bits), None)


def check_moments(bits: Mapping[str, LayerBits], moments: Statistics | None, what: str) -> None:
    """Hold images to being normalized as the layers that read them undo it.

    Args:
        bits: precision of each layer.
        moments: of the images, None where nothing is known.
        what: the network and the images, as the message begins.

    Raises:
        UserError: they are not.
    """
    own = moments_of(bits)
    if own is not None and moments is not None and not are_same(own, moments):
        raise UserError(
            f"{what}: the first layer reads images of mean {list(own[0])} and std {list(own[1])}, "
            f"but these are normalized by {list(moments[0])} and {list(moments[1])}"
        )
