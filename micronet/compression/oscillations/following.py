"""Weights that jump to and fro between two levels of their quantizer, and what is done about them.

Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training", arXiv:2203.11086. After
each step of the optimizer every weight's integer is compared with the one before. A change is a
turn if it goes the other way than the weight's last change; a moving average of turns is its
frequency, and another one follows the integer itself. A weight whose frequency exceeds a threshold
is frozen to the rounded average (iterative freezing); a loss pulls weights to their level
(dampening).

A frozen weight keeps its integer. Its master value is that integer times the step, so that it goes
where the step goes. Where the step follows a range, the range is that of the channel's other
weights: what is at its first or last level is not frozen, and what is frozen goes no further than
its ends. So the integer is the frozen one as long as the range has it, else the range's nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.compression.oscillations.weight_grid import WeightGrid, beyond_levels, weight_grid
from micronet.models import shared_layers
from micronet.quantization.layers import QuantizedLayer, quantized_layers
from micronet.recipe.schema import OscillationSection
from micronet.utils.errors import UserError

# What is kept of each weight; all of them lie in one tensor, so that a step takes few kernels.
_KEPT = {
    "integer": torch.int16,
    "direction": torch.int8,
    "frequency": torch.float32,
    "average": torch.float32,
    "frozen": torch.bool,
}
# Above this frequency a weight counts as oscillating, as in the paper's tables.
COUNTED = 0.005


class Oscillations:
    """Follows the integers of a network's quantized weights from step to step.

    Args:
        section: of the recipe; None follows nothing.
        first: epoch, from 0, in which thresholds and losses have their first value.
        last: epoch in which they have their last one.
    """

    def __init__(self, section: OscillationSection | None, first: int, last: int) -> None:
        self._section, self._epochs = section, (first, last)
        self._freeze: float | None = None
        self._dampen = 0.0
        # Whether the loss of the step that is being taken has been asked for.
        self._asked = False
        self._layers: dict[str, QuantizedLayer] = {}
        self._kept: dict[str, Tensor] = {}
        # Of each weight, which of all channels it belongs to.
        self._channels = torch.empty(0, dtype=torch.int32)
        # By which a layer multiplies each weight before it rounds it; None where none does.
        self._factors: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """What a step changes besides the weights; empty while nothing is followed."""
        return list(self._kept.values())

    @property
    def dampens(self) -> bool:
        """Whether a loss is to be added in this epoch."""
        return self._dampen > 0 and bool(self._kept)

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        """Follow the weights that are quantized now; those that a mask prunes are let go.

        Args:
            model: its quantized layers know their masks.
            epoch: from 0.
        """
        if self._section is None:
            return
        self._set_epoch(epoch)
        if not self._kept:
            self._find(model)
            self._start()
        if self._kept:
            self._follow()
            self._let_go()

    def restart(self) -> None:
        """Forget everything: what was known belongs to other levels."""
        self._layers, self._kept = {}, {}

    def _set_epoch(self, epoch: int) -> None:
        assert self._section is not None
        first, last = self._epochs
        share = min(max((epoch - first) / max(last - first, 1), 0.0), 1.0)
        freeze, dampen = self._section.freeze, self._section.dampen
        self._freeze = None if freeze is None else _between(freeze, share)
        self._dampen = 0.0 if dampen is None else _between(dampen, share)

    def _find(self, model: nn.Module) -> None:
        """Take the layers that own a quantized weight, in module order."""
        owners = shared_layers.owners(model)
        self._layers = {
            name: layer
            for name, layer in quantized_layers(model)
            if layer.bits.weight_bits is not None and owners[name] == name
        }
        sizes = [(len(layer.weight), layer.weight[0].numel()) for layer in self._layers.values()]
        if not sizes:
            return
        each = torch.tensor([size for count, size in sizes for _ in range(count)])
        channels = torch.arange(len(each), dtype=torch.int32).repeat_interleave(each)
        self._channels = channels.to(next(iter(self._layers.values())).weight.device)
        self._factors = None
        if any(layer.bits.reads_image for layer in self._layers.values()):
            self._factors = _flat(layer.weight_factors() for layer in self._layers.values())

    @torch.no_grad()
    def _start(self) -> None:
        if not self._layers:
            return
        integers = _flat(grid.integers for grid in map(weight_grid, self._layers.values()))
        self._kept = {n: torch.zeros_like(integers, dtype=t) for n, t in _KEPT.items()}
        for name in ("integer", "average"):
            self._kept[name].copy_(integers)

    def _follow(self) -> None:
        """Go where the weights are: a network may be moved, as after a state was loaded."""
        device = next(iter(self._layers.values())).weight.device
        if self._channels.device != device:
            self._kept = {name: tensor.to(device) for name, tensor in self._kept.items()}
            self._channels = self._channels.to(device)
            self._factors = None if self._factors is None else self._factors.to(device)

    @torch.no_grad()
    def _let_go(self) -> None:
        """Reset what masks prune, whose integer is 0 from now on."""
        pruned = []
        for layer in self._layers.values():
            weight, mask = layer.weight, layer.weight_mask
            kept = weight.new_ones(weight.numel(), dtype=torch.bool)
            pruned.append(~(kept if mask is None else kernels.unpack_bits(mask, weight.numel())))
        for tensor in self._kept.values():
            tensor.masked_fill_(_flat(pruned), 0)

    @torch.no_grad()
    def update(self) -> None:
        """Take in what a step of the optimizer made of the weights; keep frozen ones in place."""
        self._asked = False
        if not self._kept or self._section is None:
            return
        self._follow()
        momentum, threshold = self._section.momentum, self._freeze
        frozen, average = self._kept["frozen"], self._kept["average"]
        weights = None if threshold is None else self._without_frozen()
        grids = [weight_grid(layer) for layer in self._layers.values()]
        integers = _flat(grid.integers for grid in grids)
        if threshold is not None:
            integers = torch.where(frozen, average.round(), integers)
        change = torch.sign(integers - self._kept["integer"]).to(torch.int8)
        direction = self._kept["direction"]
        turned = change * direction < 0
        self._kept["frequency"].lerp_(turned.float(), momentum)
        average.lerp_(integers, momentum)
        direction.mul_(change == 0).add_(change)
        self._kept["integer"].copy_(integers)
        if weights is not None and threshold is not None:
            self._hold(weights, grids, threshold)

    def _without_frozen(self) -> Tensor:
        """Set frozen weights to 0, so that they move no range; return all weights."""
        weights = _flat(layer.weight for layer in self._layers.values())
        weights.masked_fill_(self._kept["frozen"], 0.0)
        self._write(weights)
        return weights

    def _hold(self, weights: Tensor, grids: list[WeightGrid], threshold: float) -> None:
        """Freeze what turns too often, and put every frozen weight where its integer is."""
        scale, low, high, first, last = (
            _flat(each).index_select(0, self._channels)
            for each in zip(*(grid[1:] for grid in grids), strict=True)
        )
        frozen, whole = self._kept["frozen"], self._kept["average"].round()
        # The ends of a range stay free, which give everything else its step; so does what a small
        # move of theirs would push out of the range.
        scaled = weights if self._factors is None else weights * self._factors
        is_inner = (scaled > low) & (scaled < high) & (whole > first) & (whole < last)
        frozen.logical_or_((self._kept["frequency"] > threshold) & is_inner)
        held = torch.clamp(whole / scale, low, high)
        if self._factors is not None:
            held = _unscaled(held, self._factors, low, high)
        self._write(torch.where(frozen, held, weights))
        integer = self._kept["integer"]
        integer.copy_(torch.where(frozen, whole, integer))

    def _write(self, weights: Tensor) -> None:
        own = [layer.weight for layer in self._layers.values()]
        parts = weights.split([weight.numel() for weight in own])
        shaped = [part.view(weight.shape) for part, weight in zip(parts, own, strict=True)]
        torch._foreach_copy_(own, shaped)

    def loss(self) -> Tensor:
        """Return the dampening loss of the weights as they are, times its weight in this epoch.

        It is the sum of the squares of what separates a weight from its level, whose gradient
        reaches the weights alone; a scalar.
        """
        self._asked = True
        if not self.dampens:
            return torch.zeros(())
        squares = [beyond_levels(layer).square().sum() for layer in self._layers.values()]
        return self._dampen * _flat(squares).sum()

    def require_loss(self) -> None:
        """Hold a loop to adding the loss to each step.

        Raises:
            UserError: this epoch dampens, and nobody has asked for the loss since the last step.
        """
        if self.dampens and not self._asked:
            raise UserError(
                "the recipe dampens oscillations, but nothing has asked for that loss: add "
                "dampening_loss() to the loss of each step"
            )

    def counts(self) -> dict[str, int]:
        """Return how many weights oscillate and how many are frozen; waits for the device."""
        if self._section is None:
            return {}
        if not self._kept:
            return {"oscillating": 0, "frozen": 0}
        frozen = self._kept["frozen"]
        turning = (self._kept["frequency"] > COUNTED) & ~frozen
        return {"oscillating": int(turning.sum()), "frozen": int(frozen.sum())}

    def state(self) -> dict[str, Tensor]:
        """Return what is known of each layer's weights, shaped as these, under ``kind/layer``."""
        return {
            f"{kind}/{name}": part.view(layer.weight.shape)
            for kind, tensor in self._kept.items()
            for (name, layer), part in zip(self._layers.items(), self._parts(tensor), strict=True)
        }

    def load(self, model: nn.Module, state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on from what ``state`` returned within or after an epoch; from nothing if it is empty.

        Raises:
            KeyError: it lacks a layer.
            RuntimeError: it is of other weights.
        """
        self.restart()
        if self._section is None or not state:
            return
        self._set_epoch(epoch)
        self._find(model)
        self._start()
        for kind, tensor in self._kept.items():
            pairs = zip(self._layers.items(), self._parts(tensor), strict=True)
            for (name, layer), part in pairs:
                found = state[f"{kind}/{name}"]
                if found.shape != layer.weight.shape:
                    raise RuntimeError(f"{kind} of layer {name!r} has shape {list(found.shape)}")
                part.copy_(found.reshape(-1))

    def _parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.split([layer.weight.numel() for layer in self._layers.values()])


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors behind one another, each in logical order, on the device of the first."""
    first, *others = (tensor.reshape(-1) for tensor in tensors)
    return torch.cat([first, *(tensor.to(first.device) for tensor in others)])


def _between(value: float | tuple[float, ...], share: float) -> float:
    """Return a number, or what a cosine between two of them is after a share of the way."""
    if isinstance(value, tuple):
        first, last = value
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))
    return value


def _unscaled(held: Tensor, factors: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return weights that are ``held`` times their factors, but for rounding within the ends."""
    weights = held / factors
    scaled = weights * factors
    beyond = (scaled < low) | (scaled > high)
    return torch.where(beyond, torch.nextafter(weights, torch.zeros_like(weights)), weights)
