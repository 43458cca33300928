"""A convolution of codes: what it is called with, and its sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..operands import Coding
from ..scheme import Scheme
from ..shapes import is_channels_last
from .block import Block

_OP = torch.ops.micronet


@dataclass(frozen=True)
class ConvCall:
    """The numbers of a convolution: (y, x) sizes, padding (top, left, bottom, right)."""

    levels: int
    weight_levels: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def is_pointwise(self, w: Tensor) -> bool:
        """Whether an output is a sum over the channels of its own pixel."""
        numbers = w.shape[2:], self.stride, self.padding, self.groups
        return numbers == ((1, 1), (1, 1), (0, 0, 0, 0), 1)

    def skips_pixels(self, w: Tensor) -> bool:
        """Whether an output is a sum over the channels of one pixel, and some pixels have none."""
        numbers = w.shape[2:], self.padding, self.groups
        return numbers == ((1, 1), (0, 0, 0, 0), 1) and self.stride != (1, 1)

    def arguments(self, x: QuantizedInput, w: Tensor, weights: QuantizedWeights) -> tuple[Any, ...]:
        """The arguments of the operator `quant_conv2d`."""
        return self.arguments_on_codes(x.codes, x.coding, x.size, w, weights)

    def arguments_on_codes(
        self, codes: Tensor, coding: Coding, size: torch.Size, w: Tensor, weights: QuantizedWeights
    ) -> tuple[Any, ...]:
        """The same from codes, what they stand for and the size [N, C, H, W] of the images."""
        rounding = weights.mask, self.weight_levels, int(weights.scheme), weights.steps
        sizes = [list(size), *map(list, (self.stride, self.padding, self.dilation))]
        return codes, *coding, w, *rounding, *sizes, self.groups


@dataclass(frozen=True)
class Learned:
    """The parameters of a learned quantizer, whose gradients a scale multiplies.

    Attributes:
        step: [1], or [O] of weights.
        offset: [1], None where the zero point is fixed.
    """

    step: Tensor
    offset: Tensor | None = None
    gradient_scale: float = 1.0
    offset_scale: float = 1.0


@dataclass(frozen=True)
class QuantizedInput:
    """What a convolution reads: codes, channels last, and what they stand for.

    Attributes:
        source: [N, C, H, W], the tensor that was rounded; gradients to the values go there.
        codes: uint8, half a byte each or a whole one.
        coding: the range, or step and zero point, and the levels.
        passes: where a gradient passes: inside the range of a block's values, or where a bit says.
        size: [N, C, H, W].
        learned: the parameters that the coding comes from, None where it follows a range.
        is_block: whether the source is the tensor of the block that says what passes.
    """

    source: Tensor
    codes: Tensor
    coding: Coding
    passes: Block | Tensor
    size: torch.Size
    learned: Learned | None = None
    is_block: bool = False

    @property
    def lies_channels_last(self) -> bool:
        """The order in memory of what was rounded."""
        if isinstance(self.passes, Block):
            return self.passes.channels_last
        return is_channels_last(self.source)


@dataclass(frozen=True)
class QuantizedWeights:
    """How the weights of a convolution are rounded.

    Attributes:
        mask: packed bits, empty where all weights are kept.
        scheme: of ranges, or LEARNED.
        steps: [2, O], the learned steps and their zero points; else empty.
        learned: the parameters that the steps come from, None where they follow ranges.
    """

    mask: Tensor
    scheme: Scheme
    steps: Tensor
    learned: Learned | None = None

    @staticmethod
    def of_ranges(w: Tensor, mask: Tensor, scheme: Scheme = Scheme.AFFINE) -> QuantizedWeights:
        """Weights w [O, ...] whose steps follow their own ranges."""
        return QuantizedWeights(mask, scheme, w.new_empty(0, dtype=torch.float32))

    @staticmethod
    def of_steps(mask: Tensor, zero_point: Tensor, learned: Learned) -> QuantizedWeights:
        """Weights of learned steps, with their zero points [O]."""
        steps = torch.stack([learned.step.detach(), zero_point])
        return QuantizedWeights(mask, Scheme.LEARNED, steps, learned)

    def without_tensors(self) -> QuantizedWeights:
        """What a node keeps beside what it saves; `with_tensors` takes those back."""
        nothing: Any = None
        learned = None if self.learned is None else replace(self.learned, step=nothing)
        return QuantizedWeights(nothing, self.scheme, nothing, learned)

    def with_tensors(self, mask: Tensor, steps: Tensor) -> QuantizedWeights:
        """The weights of `without_tensors` and what was saved of them."""
        return QuantizedWeights(mask, self.scheme, steps, self.learned)

    def values(self, w: Tensor, levels: int) -> Tensor:
        """The values of the codes of w, like w."""
        if self.learned is None:
            return _OP.fake_quant_per_channel.default(w, self.mask, levels, int(self.scheme))[0]
        return _OP.fake_quant_learned_step.default(w, self.mask, *self.steps, levels, 1.0)

    def gradients(self, grad: Tensor, w: Tensor, levels: int) -> tuple[Tensor, Tensor | None]:
        """The gradients to w and to the steps, from that to the values."""
        if self.learned is not None:
            # Where a size is 1 a contiguous tensor may have any stride; here both have the same.
            grad, w = (t.view(-1).view(w.shape) for t in (grad, w))
            return _OP.fake_quant_learned_step_backward.default(
                grad, w, self.mask, *self.steps, levels, self.learned.gradient_scale
            )
        return _OP.mask_gradient.default(grad, self.mask) if self.mask.numel() else grad, None


def backward_precision(device_type: str) -> torch.dtype:
    """The dtype that a backward convolution computes in: that of torch.autocast, where it is on."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return torch.float32


def sums_of(
    codes: Tensor,
    coding: Coding,
    size: torch.Size,
    w: Tensor,
    weights: QuantizedWeights,
    call: ConvCall,
) -> tuple[Tensor, Tensor]:
    """The integers [N, O, H', W'] of `quant_conv2d` and the step [O] between their values."""
    arguments = call.arguments_on_codes(codes, coding, size, w.contiguous(), weights)
    return _OP.quant_conv2d.default(*arguments)
