"""Whether a layer that is to read images reads what other layers compute."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.weight_uses import remove_hooks
from micronet.recipe.schema import IMAGE
from micronet.utils.errors import UserError


def watch_inputs(model: nn.Module) -> None:
    """Hold layers that read images to doing so, in the next call of a network that is trained.

    What depends on a parameter is no image; of frozen parameters nothing is known. That call raises
    a ``UserError`` which names the layer. A copy that is made of the network before is not watched.
    """
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, ImageConv2d)}
    if not layers or model in layers.values():
        return
    watch = _Watch(active=True)
    watch.hooks = [
        model.register_forward_pre_hook(watch.before, with_kwargs=True),
        *(
            layer.register_forward_pre_hook(functools.partial(watch.look, name))
            for name, layer in layers.items()
        ),
        model.register_forward_hook(watch.after, always_call=True),
    ]


class _Watch:
    """Watches one call that is given no tensor with a gradient, and nothing from then on."""

    def __init__(self, active: bool = False) -> None:
        self.hooks: list[Any] = []
        self._active, self._tells = active, False

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Find out whether this call tells anything."""
        given = (t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        plain = torch.is_grad_enabled() and not any(t.requires_grad for t in given)
        self._tells = self._active and plain

    def look(self, name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Refuse an input that is made of parameters."""
        if self._tells and inputs and getattr(inputs[0], "requires_grad", False):
            raise UserError(
                f"layer {name!r} reads what other layers compute, but step {IMAGE} is of the layer "
                "that reads the images"
            )

    def after(self, module: nn.Module, inputs: object, output: object) -> None:
        """Watch no longer, once something was told."""
        if self._tells:
            self._active = self._tells = False
        if not self._active:
            remove_hooks(self.hooks, output)

    def __reduce__(self) -> Any:
        # What a copied or stored network has of it watches nothing.
        return _Watch, ()
