"""Layers that multiply by something else than the parameter ``weight``.

Weight normalization, parametrizations and torch's own pruning compute ``weight`` from other
parameters; a subclass may standardize it in its ``forward``. Zeros and grids of the parameter are
not those of the products, so such layers are neither pruned nor quantized nor counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from micronet.quantization.deterministic_layers import FloatConv2d, FloatLinear
from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.layers import QuantizedConv2d, QuantizedLinear
from micronet.utils.errors import UserError
from micronet.utils.function_watch import FunctionWatch

_CONVOLUTIONS: tuple[type[_ConvNd], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
# They multiply by the parameter, or by what a quantized layer says that it computes with.
_KNOWN: tuple[type[nn.Module], ...] = (
    *_CONVOLUTIONS,
    nn.Linear,
    Conv2dDynamicSamePadding,
    Conv2dStaticSamePadding,
    FloatConv2d,
    FloatLinear,
    ImageConv2d,
    QuantizedConv2d,
    QuantizedLinear,
)
_METHODS = ("forward", "_conv_forward")
_PRODUCTS = (
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)


def check_weight(name: str, layer: nn.Module, verb: str, where: str = "", hint: str = "") -> None:
    """Hold a layer to multiplying by its parameter ``weight``.

    Args:
        name: of the layer.
        layer: a convolution or linear layer.
        verb: what cannot be done with it if it does not: "pruned", "quantized", "scored".
        where: how a message begins.
        hint: how it ends.

    Raises:
        UserError: it multiplies by something else.
    """
    if reason := computed(layer):
        kind = type(layer).__name__
        raise UserError(f"{where}layer {name!r} ({kind}) cannot be {verb}: {reason}{hint}")


def computed(layer: nn.Module) -> str | None:
    """Return why a layer does not multiply by its parameter ``weight``, or None if it does."""
    if layer._parameters.get("weight") is None:
        sources = [repr(name) for name, _ in layer.named_parameters() if name != "bias"]
        return f"its weight is computed from {' and '.join(sources) or 'other tensors'}"
    if _has_known_methods(layer) or _multiplies_by_weight(layer):
        return None
    return "its own forward pass does not multiply by its parameter 'weight' as it is"


def has_plain_parameters(layer: nn.Module) -> bool:
    """Whether weight and bias are parameters, and forward is the class's own."""
    own = all(key in layer._parameters for key in ("weight", "bias"))
    return own and not any(method in vars(layer) for method in _METHODS)


def _has_known_methods(layer: nn.Module) -> bool:
    """Whether a layer computes with the methods of one of the known classes.

    A class above this package says of itself that it is one, by ``multiplies_by_weight``, which its
    subclasses do not inherit. Others are tried: a copy of the layer runs on the meta device.
    """
    if any(method in vars(layer) for method in _METHODS):
        return False
    if vars(type(layer)).get("multiplies_by_weight", False):
        return True
    mine = [getattr(type(layer), method, None) for method in _METHODS]
    return any(mine == [getattr(known, m, None) for m in _METHODS] for known in _KNOWN)


def _multiplies_by_weight(layer: nn.Module) -> bool:
    """Whether a forward pass uses the parameter ``weight`` as the operand of products, and only so.

    The pass runs on the meta device; a layer that cannot run there is taken to do something else.
    """
    try:
        probe = copy.deepcopy(layer).to("meta").eval()
        uses = _Uses(probe.get_parameter("weight"))
        with uses, torch.no_grad():
            probe(_example(probe))
    except Exception:
        # A user's forward pass may raise anything where there are no values.
        return False
    return uses.multiplied and not uses.other


def _example(layer: nn.Module) -> Tensor:
    """Return an input on the meta device that a convolution or linear layer takes."""
    weight = layer.get_parameter("weight")
    options: Any = {"device": "meta", "dtype": weight.dtype}
    if isinstance(layer, nn.Linear):
        return torch.empty(1, layer.in_features, **options)
    assert isinstance(layer, _ConvNd)
    sides = zip(layer.kernel_size, layer.dilation, strict=True)
    return torch.empty(
        1, layer.in_channels, *(kernel * apart for kernel, apart in sides), **options
    )


class _Uses(FunctionWatch):
    """Notes what the functions that are called do with one parameter."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self._weight = weight
        self.multiplied = self.other = False

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note what a call does with the parameter."""
        result = func(*args, **kwargs)
        if func in _PRODUCTS:
            operand = args[1] if len(args) > 1 else kwargs.get("weight")
            self.multiplied |= operand is self._weight
            self.other |= operand is not self._weight
        elif isinstance(result, Tensor):
            # Its shape or type may be asked for.
            self.other |= any(value is self._weight for value in (*args, *kwargs.values()))
        return result
