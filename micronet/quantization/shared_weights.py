"""Weights that several layers hold, which are rounded once, so in one way."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from micronet.models import architectures
from micronet.models.shared_layers import all_names, holders, weight_key
from micronet.models.shared_tensors import view_of
from micronet.quantization.precision import LayerBits
from micronet.utils.errors import UserError


def check_precision(model: nn.Module, bits: Mapping[str, LayerBits], where: str = "") -> None:
    """Hold every use of a quantized weight to the same precision.

    Raises:
        UserError: another layer holds it at other bits or steps, or something else than a
            convolution or a linear layer holds it.
    """
    for owner, (_, *others) in holders(model).items():
        for other in others:
            if _weight_precision(bits[owner]) != _weight_precision(bits[other]):
                raise UserError(
                    f"{where}layers {owner!r} and {other!r} hold one weight, which cannot be "
                    f"{_text(bits[owner])} in one and {_text(bits[other])} in the other"
                )
    layers = architectures.layers(model)
    rounded = {view_of(layers[n].weight): n for n, b in bits.items() if b.weight_bits is not None}
    keys = {weight_key(name) for names in all_names(model).values() for name in names}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if key not in keys and (name := rounded.get(view_of(parameter))) is not None:
            raise UserError(
                f"{where}the weight of layer {name!r} is parameter {key!r} too, which would stay "
                "in float: set the layer's weights to null in quantize.overrides"
            )


def _weight_precision(bits: LayerBits) -> tuple[float | None, str]:
    if bits.weight_bits is None:
        return None, ""
    step = "symmetric range" if bits.symmetric else bits.weight_step
    # They are rounded with the factors of the image's channels.
    return bits.weight_bits, f"channel-scaled {step}" if bits.reads_image else step


def _text(bits: LayerBits) -> str:
    width, step = _weight_precision(bits)
    return "float" if width is None else f"of {width:g} bits and a {step} step"
