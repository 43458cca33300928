"""Uses of a layer's weight that go around the layer, and would get it as it was before rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from micronet.models import architectures
from micronet.quantization.layers import QuantizedLayer
from micronet.utils.errors import UserError
from micronet.utils.function_watch import FunctionWatch


def check_uses(model: nn.Module, names: Iterable[str], channels: int, size: int) -> None:
    """Hold a network to using the weights of layers that it will quantize through these layers.

    It classifies one empty image in evaluation mode; one that cannot is left to fail where it is
    trained. A network that is quantized already has been held to this.

    Args:
        model: in float; its mode is restored.
        names: of the layers whose weights are to be quantized.
        channels: of an image.
        size: of an image's sides, in pixels.

    Raises:
        UserError: a function outside a layer takes its weight, as a decoder does that shares its
            encoder's.
    """
    layers = architectures.layers(model)
    weights: dict[str, Tensor] = {name: layers[name].weight for name in names}
    if not weights or any(isinstance(layer, QuantizedLayer) for layer in layers.values()):
        return
    uses, device = _Uses(weights), next(iter(weights.values())).device
    hooks = [hook for name, layer in layers.items() for hook in uses.follow(layer)]
    training = model.training
    try:
        with uses, torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size, device=device))
    except Exception:
        # Whatever a user's forward pass raises is told when training calls it.
        return
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for name, function in uses.found.items():
        raise UserError(
            f"layer {name!r} cannot be quantized: the network calls {function} with its weight, "
            "which would stay in float there; set its weights to null in quantize.overrides, or "
            "call the layer"
        )


class _Uses(FunctionWatch):
    """Notes the functions that take one of some weights while no layer is being called."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        # The weights are held, so that no other tensor takes an identity.
        self._weights = weights
        self._names = {id(weight): name for name, weight in weights.items()}
        self._inside = 0
        self.found: dict[str, str] = {}

    def follow(self, layer: nn.Module) -> list[Any]:
        """Watch the calls of a layer; return the hooks that do."""

        def enter(*_: object) -> None:
            self._inside += 1

        def leave(*_: object) -> None:
            self._inside -= 1

        before = layer.register_forward_pre_hook(enter)
        return [before, layer.register_forward_hook(leave, always_call=True)]

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note a use of a weight outside of its layer."""
        result = func(*args, **kwargs)
        if not self._inside and isinstance(result, Tensor):
            for value in (*args, *kwargs.values()):
                if id(value) in self._names:
                    self.found.setdefault(self._names[id(value)], getattr(func, "__name__", "it"))
        return result
