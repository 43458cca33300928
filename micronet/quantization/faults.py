"""What a quantized network cannot compute with: steps that are none, and what is not finite.

An optimizer may take a learned step to zero or below. Nothing is computed with such a step: every
value of its layer is NaN, by the definition of the quantizer. Here is what says so in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer, is_invalid
from micronet.utils.errors import UserError


class Learned(NamedTuple):
    """A network's learned steps and offsets, each by what it is the one of."""

    steps: Mapping[str, Tensor]
    offsets: Mapping[str, Tensor]

    @staticmethod
    def of(model: nn.Module) -> Learned:
        """Return those of a network, as they are now."""
        return Learned(quantize.learned_steps(model), learned_offsets(model))

    def together(self) -> Tensor:
        """Return all of them [n], float32, the steps first; empty where there are none."""
        parts = [part.detach() for part in (*self.steps.values(), *self.offsets.values())]
        return torch.cat(parts) if parts else torch.empty(0)

    def with_values(self, values: Tensor) -> Learned:
        """Return them with other values, of the order of ``together``."""
        sizes = [len(part) for part in (*self.steps.values(), *self.offsets.values())]
        parts = values.split(sizes) if sizes else ()
        steps = dict(zip(self.steps, parts, strict=False))
        return Learned(steps, dict(zip(self.offsets, parts[len(steps) :], strict=True)))

    def are_sound(self, values: Tensor) -> Tensor:
        """Return whether values, of the order of ``together``, can be computed with, bool []."""
        steps = sum(len(step) for step in self.steps.values())
        sound = ~is_invalid(values[:steps]).any()
        return sound & values[steps:].isfinite().all()

    @torch.no_grad()
    def faults(self) -> Iterator[tuple[str, float, str]]:
        """Yield what cannot be computed with, its value, and what it must be."""
        for owner, value in quantize.invalid_steps(self.steps).items():
            yield f"the learned step of {owner}", value, "positive and finite"
        for owner, offset in self.offsets.items():
            if not bool(offset.isfinite().all()):
                yield f"the learned offset of {owner}", float(offset.detach()), "finite"


def learned_offsets(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are offsets of quantizers, each by what it is the one of."""
    return {
        f"the input of layer {name!r}": layer.input_quantizer.offset
        for name, layer in quantized_layers(model)
        if isinstance(layer.input_quantizer, LearnedActivationQuantizer)
        and layer.input_quantizer.offset is not None
    }


def require_sound_quantizers(model: nn.Module, before: str = "") -> None:
    """Hold what quantizers know to what they can compute with; waits for the device.

    Args:
        model: any network.
        before: what the sentence begins with, such as whose network it is.

    Raises:
        UserError: a range of activations is not finite, a learned step is not positive and finite,
            or a learned offset is not finite.
    """
    for name in quantize.nonfinite_ranges(model):
        raise UserError(f"{before}the input of layer {name!r} held a value that is not finite")
    for what, value, must in Learned.of(model).faults():
        raise UserError(f"{before}{what} is {value}, but must be {must}")


@torch.no_grad()
def require_sound(model: nn.Module, before: str = "") -> None:
    """Hold quantizers, as above, and the weights that they round to being numbers.

    Raises:
        UserError: as above, or weights of a quantized layer are not finite.
    """
    require_sound_quantizers(model, before)
    for name, layer in quantized_layers(model):
        if not bool(layer.weight.isfinite().all()):
            raise UserError(
                f"{before}the weights of layer {name!r} hold values that are not finite"
            )
