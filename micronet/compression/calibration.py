"""Ranges of activations from some batches, without labels and without training.

What comes out is a network quantized after training, and a good start for training it further.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models.failures import failures_of
from micronet.quantization.layers import QuantizedLayer, quantized_layers
from micronet.quantization.quantizers.least_error import SHARES, best_ends, thinned
from micronet.utils import distributed
from micronet.utils.errors import UserError, nearest
from micronet.utils.modes import evaluation_mode

METHODS = ("minmax", "mse")
# Values of a layer's input that are kept to choose its range by; more are thinned out evenly.
_MOST_VALUES = 1 << 18


@torch.no_grad()
def calibrate_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: str = "minmax",
    forward: Callable[[Any], object] | None = None,
) -> None:
    """Set the range of every quantized input from some batches; steps that are learned likewise.

    The network runs in evaluation mode on inputs in float and weights in few bits. A layer that no
    batch reaches is left as it is.

    Args:
        model: has quantized layers; the mode of each module is restored.
        batches: images, or tuples that begin with them, or dicts of keywords.
        method: ``minmax`` takes the lowest and the highest value; ``mse`` the ends that give the
            least square error over evenly chosen values, for weights of learned steps too.
        forward: calls the network with a batch, where it takes something else.

    Raises:
        UserError: no layer has a quantized input or no batch reaches one, the network fails, an
            input is not finite, batches are one tensor, or there is no such method; no range is
            set then.
    """
    if method not in METHODS:
        known = " or ".join(METHODS)
        raise UserError(
            f"method {method!r} is none of calibrate_: {known}{nearest(method, METHODS)}"
        )
    check_several(batches, "calibrate_")
    found = {n: m for n, m in quantized_layers(model) if m.input_quantizer is not None}
    if not found:
        raise UserError("calibrate_ finds no layer with a quantized input: call quantize_ first")
    # The levels of an image are what they are.
    layers = {n: m for n, m in found.items() if not m.bits.reads_image}
    if not layers:
        return
    call = forward or (lambda batch: called(model, batch))
    with evaluation_mode(model), _observed(layers) as observers:
        for batch in batches:
            with failures_of(f"{type(model).__name__} cannot be calibrated"):
                call(batch)
    reached = {name: seen for name, seen in observers.items() if seen.batches}
    if not reached:
        raise UserError("calibrate_ has seen no input of a quantized layer: there was no batch")
    for name, observer in reached.items():
        observer.check(name)
    for name, observer in reached.items():
        _set(layers[name], observer, method)


def called(model: nn.Module, batch: Any) -> object:
    """Call a network with a batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def check_several(batches: object, who: str) -> None:
    """Hold batches to being several, of which one tensor's rows would be.

    Raises:
        UserError: they are one tensor.
    """
    if isinstance(batches, Tensor):
        raise UserError(f"{who} takes batches, as in [images], not one tensor")


class _Observer:
    """The ends of a layer's inputs, and some of their values."""

    def __init__(self) -> None:
        self.batches = 0
        self.low = self.high = 0.0
        self._values: list[Tensor] = []
        self._every = 1

    def see(self, x: Tensor) -> None:
        """Take in one input; an empty one, as of a head without a region, has no range."""
        if not x.numel():
            return
        low, high = (float(end) for end in torch.aminmax(x.detach().float()))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low != low or high != high:
            self.low = self.high = torch.nan
        self._values.append(thinned(x.detach().float(), self._every))
        self.batches += 1
        if sum(map(len, self._values)) > _MOST_VALUES:
            self._values = [kept[::2] for kept in self._values]
            self._every *= 2

    def check(self, name: str) -> None:
        """Hold the inputs of layer ``name`` to being finite."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"the input of layer {name!r} held a value that is not finite")

    def values(self) -> Tensor:
        """Return the values that were kept."""
        return torch.cat(self._values)


@contextlib.contextmanager
def _observed(layers: Mapping[str, QuantizedLayer]) -> Iterator[dict[str, _Observer]]:
    """Let layers compute with inputs in float, and watch these."""
    observers = {name: _Observer() for name in layers}

    def observing(layer: QuantizedLayer, observer: _Observer) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            observer.see(input)
            return layer.combine(input, layer.quantized_weight())

        return forward

    # A forward pass of its own, as what moves weights between devices gives a layer, comes back.
    before = {name: vars(layer).get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.forward = observing(layer, observers[name])  # type: ignore[method-assign]
    try:
        yield observers
    finally:
        for name, layer in layers.items():
            del layer.forward
            if (own := before[name]) is not None:
                vars(layer)["forward"] = own


def _set(layer: QuantizedLayer, observer: _Observer, method: str) -> None:
    quantizer = layer.input_quantizer
    assert quantizer is not None
    # Where processes can exchange it.
    device = layer.weight.device
    if method == "mse":
        values = observer.values()
        low, high = torch.tensor([observer.low, observer.high], device=values.device)
        ends = distributed.mean(best_ends(values, low, high, quantizer.levels).to(device))
        _choose_weight_steps(layer)
    else:
        widest = torch.tensor([observer.low, observer.high], device=device)
        ends = distributed.all_reduce_range(widest)
    quantizer.start_from(float(ends[0]), float(ends[1]), observer.batches)


def _choose_weight_steps(layer: QuantizedLayer) -> None:
    """Give learned steps of weights the values of least square error, channel by channel."""
    if layer.weight_step is None:
        return
    weight = layer.scaled_weight().detach().flatten(1)
    started = layer.weight_step.detach().clone()
    largest = weight.abs().amax(1) / max(layer.weight_levels // 2, 1)
    best, least = started, torch.full_like(started, torch.inf)
    for share in SHARES:
        step = torch.where(largest > 0, largest * share, started)
        layer.weight_step.copy_(step)
        kept = layer.quantized_weight().detach().flatten(1)
        error = _masked_error(layer, kept, weight)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    layer.weight_step.copy_(best)


def _masked_error(layer: QuantizedLayer, rounded: Tensor, weight: Tensor) -> Tensor:
    """Return the square error of each channel over the weights that are not pruned."""
    error = (rounded - weight).square()
    if layer.weight_mask is not None:
        error = error * kernels.unpack_bits(layer.mask, error.numel()).view(error.shape)
    return error.sum(1)
