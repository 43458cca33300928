"""What is known of one layer with weights: shape, zeros, levels, and the integers it computes with.

Made from a plan, which knows only how many weights are zero, or from the weights themselves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from micronet.models.architectures import Layer
from micronet.pruning.patterns import outputs_first, outputs_first_shape
from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.plain_weights import check_weight
from micronet.quantization.quantize import LayerBits
from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.scoring.network.encodings import Blocks, Layout, block_cuts, cheapest, code_bits
from micronet.scoring.network.integer_grids import OffGridError, integers_at, integers_of
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class Channel:
    """The integer weights of one output channel: sums of the positive and of the negative ones'
    magnitudes, and the largest magnitude."""

    positive: int
    negative: int
    largest: int


@dataclass(frozen=True)
class LayerFacts:
    """A convolution or linear layer as it is scored.

    Attributes:
        shape: of the weights, output channels first, those of a transposed convolution too.
        bits: of both operands; None keeps one in float.
        nonzeros: of each output channel, weights that are not zero in the forward pass.
        kept: weights that are not zero before they are quantized, all channels together.
        bias: whether the layer adds one; a layer that reads an image adds what is folded into it.
        blocks: how the weights could be stored in blocks; none where only their number is known.
        channels: integer weights by output channel; None in a plan, or where they are float.
        input_codes: smallest and largest integer of the input's quantizer; None where its range
            is not known or the input is float.
        shared: whether an earlier layer stores the same weights.
        has_factors: whether it stores a float for each output channel that float sums are
            multiplied by, as a packed network does.
    """

    name: str
    shape: tuple[int, ...]
    bits: LayerBits
    nonzeros: tuple[int, ...]
    kept: int
    bias: bool
    blocks: tuple[Blocks, ...] = ()
    channels: tuple[Channel, ...] | None = None
    input_codes: tuple[int, int] | None = None
    shared: bool = False
    has_factors: bool = False

    def layout(self, float_bits: int) -> Layout:
        """Return how the weights are stored in fewest bits, a float being one of so many."""
        levels = self.bits.weight_levels
        bits = float_bits if levels is None else code_bits(levels)
        return cheapest(self.numel, self.nonzero, self.blocks, bits)

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def nonzero(self) -> int:
        """Weights that are not zero in the forward pass."""
        return sum(self.nonzeros)


def planned(
    name: str, module: Layer, bits: LayerBits, kept: int, shared: bool = False
) -> LayerFacts:
    """Return the facts of a plan, its non-zeros spread over the output channels evenly.

    Args:
        name: of the layer.
        module: a convolution or linear layer, of which only the shape counts.
        bits: of both operands.
        kept: weights that are not zero.
        shared: whether an earlier layer stores the same weights.

    Raises:
        UserError: zeros or a grid are planned for a layer that does not multiply by its parameter
            ``weight``.
    """
    shape = outputs_first_shape(module)
    if not bits.is_float or kept < prod(shape):
        check_weight(name, module, "scored")
    nonzeros = spread(kept, shape[0])
    bias = module.bias is not None or bits.reads_image
    return LayerFacts(name, shape, bits, nonzeros, kept, bias, shared=shared)


def spread(kept: int, channels: int) -> tuple[int, ...]:
    """Return how many of ``kept`` weights each output channel has if they are spread evenly."""
    each, more = divmod(kept, channels)
    return (each + 1,) * more + (each,) * (channels - more)


def actual(
    name: str,
    module: Layer,
    bits: LayerBits,
    where: str,
    shared: bool = False,
    holds: bool = True,
) -> LayerFacts:
    """Return the facts of a layer with weights, from the values that it computes with.

    Args:
        name: of the layer.
        module: a convolution or linear layer.
        bits: of both operands.
        where: the weights come from, for messages.
        shared: whether an earlier layer stores the same weights.
        holds: hold the values to ``bits``, which else only say what is billed.

    Raises:
        UserError: the weights are claimed to be quantized, and are not; or the layer does not
            multiply by its parameter ``weight``.
    """
    check_weight(name, module, "scored", f"{where}: ")
    values = outputs_first(_values(module), module)
    rows: np.ndarray = values.detach().double().flatten(1).cpu().numpy()
    epsilon = torch.finfo(values.dtype).eps
    nonzero = rows != 0
    kept = int((module.weight.detach() != 0).sum())
    return LayerFacts(
        name,
        tuple(values.shape),
        bits,
        tuple(int(n) for n in nonzero.sum(axis=1)),
        kept,
        module.bias is not None or bits.reads_image,
        block_cuts(nonzero.reshape(values.shape)) if not nonzero.all() else (),
        _channels(name, module, rows, epsilon, bits, where) if holds else None,
        _input_codes(getattr(module, "input_quantizer", None)),
        shared,
        getattr(module, "norm_scale", None) is not None,
    )


@torch.no_grad()
def _values(module: Layer) -> torch.Tensor:
    return module.quantized_weight() if isinstance(module, QuantizedLayer) else module.weight


def _channels(
    name: str, module: Layer, rows: np.ndarray, epsilon: float, bits: LayerBits, where: str
) -> tuple[Channel, ...] | None:
    """Return the integers that the layer computes with; of another program's, the smallest."""
    levels = bits.weight_levels
    if levels is None:
        return None
    try:
        if isinstance(module, QuantizedLayer):
            whole = integers_at(rows, _steps(module), levels, epsilon)
        else:
            whole = integers_of(rows, levels, epsilon)
    except OffGridError as error:
        raise UserError(
            f"{where}: layer {name!r} is claimed to have weights of {bits.weight_bits:g} bits, but "
            f"output channel {error.row} is on no grid of {levels} levels"
        ) from None
    total, magnitudes = whole.sum(axis=1), np.abs(whole)
    both, largest = magnitudes.sum(axis=1), magnitudes.max(axis=1, initial=0)
    positive, negative = (both + total) // 2, (both - total) // 2
    sums = zip(positive.tolist(), negative.tolist(), largest.tolist(), strict=True)
    return tuple(Channel(*three) for three in sums)


@torch.no_grad()
def _steps(module: QuantizedLayer) -> np.ndarray:
    """Return the step of each output channel, the quantizer's own: values need not reach both ends.

    Both ends of a range may lie half a step from a level, and round to one level fewer.
    """
    scales = module.weight_scale().double().cpu().numpy()
    # A channel of zeros has any step.
    return 1.0 / np.where(np.isfinite(scales) & (scales > 0), scales, 1.0)


@torch.no_grad()
def _input_codes(quantizer: InputQuantizer | None) -> tuple[int, int] | None:
    """Return the smallest and largest integer of an input: it rounds what is far outside to them.

    The quantizer itself is asked, so that its arithmetic is written down in one place only.
    """
    if quantizer is None or not quantizer.is_ready():
        return None
    if isinstance(quantizer, ImageQuantizer):
        return 0, quantizer.levels - 1
    far = torch.tensor([-1e30, 1e30])
    low, high = copy.deepcopy(quantizer).cpu().eval()(far).double().tolist()
    if not high > low:
        return None
    n = quantizer.levels - 1
    smallest = round(n * low / (high - low))
    return smallest, smallest + n
