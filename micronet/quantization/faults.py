"""What a quantized network cannot compute with: steps that are none, and what is not finite.

An optimizer may take a learned step to zero or below. Nothing is computed with such a step: every
value of its layer is NaN, by the definition of the quantizer. Here is what says so in words, and
what watches for it while somebody's loop trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer, is_invalid
from micronet.utils.deferred import Deferred
from micronet.utils.errors import UserError

# So many steps of a device travel to the host together.
_TOGETHER = 8


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
        # Layers may lie on several devices.
        return torch.cat([part.to(parts[0].device) for part in parts]) if parts else torch.empty(0)

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


class _Look(NamedTuple):
    """What was looked at after a step, and what it was after the first step that failed."""

    number: int
    learned: Learned
    kept: Tensor


class LearnedWatch:
    """Looks at learned steps and offsets after each step of an optimizer in somebody's loop.

    On the CPU at once. On a device it is decided there, so that the host need not wait, and found
    some steps later: by then every value that is computed is NaN, but the first bad step is known.

    One watches one epoch, in which a network has the same parameters: finding them takes longer
    than looking at them.
    """

    def __init__(self) -> None:
        self._learned: Learned | None = None
        self._results: Deferred[_Look] | None = None
        self._sound = self._kept = torch.empty(0)

    @torch.no_grad()
    def look(self, model: nn.Module, number: int) -> None:
        """Look at a network after step ``number``.

        Raises:
            UserError: a learned step is not positive and finite, or an offset is not finite.
        """
        if self._learned is None:
            self._learned = Learned.of(model)
        learned, now = self._learned, self._learned.together()
        if not now.numel():
            return
        if self._results is None or self._kept.device != now.device:
            # The first step, or the first one since the network was moved.
            self._results = Deferred(1 if now.device.type == "cpu" else _TOGETHER)
            self._sound = torch.ones((), dtype=torch.bool, device=now.device)
            self._kept = now
        # Of the newest step, or of the first that failed.
        self._kept = torch.where(self._sound, now, self._kept)
        self._sound = self._sound & learned.are_sound(now)
        given = _Look(number, learned, self._kept)
        for look, (sound,) in self._results.add(given, self._sound[None].double()):
            if not sound:
                raise _error(look)


def _error(look: _Look) -> UserError:
    what, value, must = next(look.learned.with_values(look.kept.cpu()).faults())
    return UserError(
        f"{what} is {value} after step {look.number}, but must stay {must}: a lower rate of "
        "learned steps may help"
    )
