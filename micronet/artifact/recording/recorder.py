"""One evaluation of a network as a graph: what its layers and torch's functions did to the image.

The network runs as it is, in Python, on two images; what is noted is who read which tensor. Control
flow that depends on sizes is followed; that on values is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.artifact.recording.functions import note
from micronet.artifact.recording.steps import Notes, Step
from micronet.models.failures import failures_of
from micronet.quantization.deterministic_layers import FloatConv2d, FloatLinear, MeanPool2d
from micronet.quantization.layers import QuantizedLayer
from micronet.utils.function_watch import FunctionWatch

# So many, that a size of the batch is no size of the image by chance.
_IMAGES = 2
_LEAVES = (QuantizedLayer, FloatConv2d, FloatLinear, MeanPool2d)


def sample_images(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Return images [count, C, H, W] of normal values, channels last, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *shape, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def record(model: nn.Module, shape: tuple[int, ...], name: str) -> tuple[list[Step], int]:
    """Return the steps of an evaluation in their order, and which of them was returned.

    Args:
        model: on the CPU, in evaluation mode.
        shape: of an image, [C, H, W].
        name: of the network, for messages.

    Raises:
        UserError: it does not take such images, or computes with a function that the format has
            not.
    """
    images = sample_images(shape, _IMAGES, 0)
    notes = Notes(images, name)
    problem = f"{name} cannot be exported"
    with failures_of(problem), _Recorder(model, notes):
        result = model(images)
    if not isinstance(result, Tensor):
        raise notes.refusal(f"it returns {type(result).__name__}, but must return one tensor")
    return notes.steps, notes.require(result, "its output")


class _Recorder(FunctionWatch):
    """Notes what is done to images within the context."""

    def __init__(self, model: nn.Module, notes: Notes) -> None:
        super().__init__()
        self._model, self._notes, self._inside = model, notes, 0

    def __enter__(self) -> _Recorder:
        """Watch functions, and follow the calls of layers."""
        for name, module in self._model.named_modules():
            if isinstance(module, _LEAVES):
                self._hooks.append(module.register_forward_pre_hook(self._enter, prepend=True))
                leave = self._leave_of(name)
                self._hooks.append(module.register_forward_hook(leave, with_kwargs=True))
        super().__enter__()
        return self

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._inside += 1

    def _leave_of(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self._inside -= 1
            # A layer takes one tensor, by whatever name.
            x = [*args, *kwargs.values()][0]
            if isinstance(module, MeanPool2d):
                self._notes.add("pool", [x], result, function="mean", exact=True)
                return
            block = result.block() if isinstance(result, kernels.LazyTensor) else None
            self._notes.add(
                "layer",
                [x],
                result,
                name=name,
                module=module,
                size=x.shape[1:],
                scale=None if block is None else block.scale,
                shift=None if block is None else block.shift,
            )

        return leave

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note a function of torch that is called outside of a layer."""
        if self._inside:
            return func(*args, **kwargs)
        return note(self._notes, func, args, kwargs)
