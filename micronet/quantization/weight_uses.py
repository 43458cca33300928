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
from micronet.utils.modes import evaluation_mode


def check_uses(model: nn.Module, names: Iterable[str], run: Callable[[], object]) -> None:
    """Hold a network to using the weights of layers that it will quantize through these layers.

    It runs once in evaluation mode; one that fails is left to fail where it is trained. A network
    that is quantized already has been held to this.

    Args:
        model: in float; the mode of each module is restored.
        names: of the layers whose weights are to be quantized.
        run: calls the network.

    Raises:
        UserError: a function outside a layer takes its weight, as a decoder does that shares its
            encoder's.
    """
    layers = architectures.layers(model)
    chosen = list(names)
    if not chosen or any(isinstance(layer, QuantizedLayer) for layer in layers.values()):
        return
    uses = WeightUses(model, chosen)
    try:
        with evaluation_mode(model), uses, torch.no_grad():
            run()
    except Exception:
        # Whatever a user's forward pass raises is told when training calls it.
        return
    uses.check()


class WeightUses(FunctionWatch):
    """Notes the functions that take a layer's weight while no layer is being called.

    Args:
        model: the network, which is watched within the context.
        names: of the layers whose weights matter.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self._layers = architectures.layers(model)
        # The weights are held, so that no other tensor takes an identity.
        self._weights: dict[str, Tensor] = {name: self._layers[name].weight for name in names}
        self._names = {id(weight): name for name, weight in self._weights.items()}
        self._inside = 0
        self._found: dict[str, str] = {}

    def __enter__(self) -> WeightUses:
        """Watch functions, and follow the calls of all layers."""

        def enter(*_: object) -> None:
            self._inside += 1

        def leave(*_: object) -> None:
            self._inside -= 1

        for layer in self._layers.values():
            self._hooks.append(layer.register_forward_pre_hook(enter))
            self._hooks.append(layer.register_forward_hook(leave, always_call=True))
        super().__enter__()
        return self

    def check(self) -> None:
        """Raise if a function has taken a weight.

        Raises:
            UserError: one has, which names it and the layer.
        """
        for name, function in self._found.items():
            raise UserError(
                f"layer {name!r} cannot be quantized: the network calls {function} with its weight,"
                " which would stay in float there; set its weights to null in quantize.overrides, "
                "or call the layer"
            )

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note a use of a weight outside of its layer."""
        result = func(*args, **kwargs)
        if not self._inside and isinstance(result, Tensor):
            for value in (*args, *kwargs.values()):
                if id(value) in self._names:
                    self._found.setdefault(self._names[id(value)], getattr(func, "__name__", "it"))
        return result


def watch_first_call(model: nn.Module, names: Iterable[str]) -> None:
    """Hold a network, when it is called next, to using some layers' weights through these layers.

    For a network of which nothing is known yet that it could be called with. That call raises the
    ``UserError`` of ``check_uses``; a copy of the network that is made before is not watched.
    """
    if model in architectures.layers(model).values():
        # There is nothing around it that could call a function.
        return
    watch = _FirstCall(model, names)
    watch.hooks.append(model.register_forward_pre_hook(watch.before))
    watch.hooks.append(model.register_forward_hook(watch.after, always_call=True))


def remove_hooks(hooks: list[Any], output: object) -> None:
    """Remove hooks in the last of them, which is called where the module fails too.

    Then there is no output, torch goes through the hooks of that kind, and would trip over one that
    is gone, with an error in place of the module's own. The last one waits for the next call.
    """
    for hook in hooks if output is not None else hooks[:-1]:
        hook.remove()


class _FirstCall:
    """Watches one call of a network, and nothing from then on."""

    def __init__(self, model: nn.Module | None, names: Iterable[str] = ()) -> None:
        self.hooks: list[Any] = []
        self._uses = WeightUses(model, names) if model is not None else None

    def before(self, module: nn.Module, inputs: object) -> None:
        """Begin to watch."""
        if self._uses is not None:
            self._uses.__enter__()

    def after(self, module: nn.Module, inputs: object, output: object) -> None:
        """Say what was seen."""
        uses, self._uses = self._uses, None
        remove_hooks(self.hooks, output)
        if uses is not None:
            uses.__exit__(None, None, None)
            uses.check()

    def __reduce__(self) -> Any:
        # What a copied or stored network has of it watches nothing.
        return _FirstCall, (None,)
