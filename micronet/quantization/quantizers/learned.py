"""A quantizer of a layer's input whose step is a parameter, and the initial step of learned ones.

Learned step size quantization (LSQ): Esser et al. 2020, "Learned Step Size Quantization", whose
section 2.1 gives the initial step and section 2.2 the gradient's scale. With an offset (LSQ+):
Bhalgat et al. 2020, arXiv:2004.09576, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.quantization.quantizers.inputs import InputQuantizer, is_empty
from micronet.quantization.quantizers.least_error import best_ends, thinned
from micronet.utils import distributed


class LearnedActivationQuantizer(InputQuantizer):
    """Fake-quantizes its input to whole multiples of a step that the optimizer learns.

    The first training batch sets the initial step and, for good, the zero point: 0 for an input
    that is never negative. Until then the zero point is NaN, and so is every value. With an offset,
    a learned one, the zero point follows it: the whole number of steps nearest to it, held to where
    0 is a multiple. That of an input that was never negative has no gradient and stays.
    """

    step_size: nn.Parameter
    offset: nn.Parameter | None
    zero_point: Tensor

    def __init__(self, levels: int, has_offset: bool = False, start: str = "mean") -> None:
        """Make a quantizer that waits for its first batch.

        Args:
            levels: of the input.
            has_offset: whether an offset is learned, too.
            start: what the first batch gives the step: its ``mean`` magnitude, as the paper says,
                its ``range``, or the ends of least square error, ``mse``.
        """
        super().__init__(levels)
        self.start = start
        self.step_size = nn.Parameter(torch.ones(1))
        self.register_parameter("offset", nn.Parameter(torch.zeros(1)) if has_offset else None)
        self.register_buffer("zero_point", torch.full((1,), torch.nan))
        # The largest multiple, on the host, so that no later step waits for the device.
        self._largest: int | None = None
        # For as many levels the initial step is chosen; others then reach as far.
        self.start_levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized values of ``x`` (batch, ...)."""
        self._start_once(x)
        zero, learned = self.whole_zero_point(), self._learned(_features(x))
        y = kernels.fake_quant_learned_step(
            x, self.step_size, zero, self.levels, gradient_scale=learned.gradient_scale
        )
        if self.offset is None:
            return y
        # Its gradient is 1 where the one to x is 0: a number that is always 0 brings it.
        multiples = x.detach() * self.scale
        beyond = (multiples <= zero) | (multiples >= zero + (self.levels - 1))
        moved = (self.offset - self.offset.detach()) * learned.offset_scale
        return y + torch.where(beyond, moved, 0.0).to(y.dtype)

    def codes(self, x: Tensor, features: int) -> kernels.QuantizedInput | None:
        """Return the codes of images; see ``InputQuantizer.codes``."""
        self._start_once(x)
        if not self.training and not kernels.is_finite(x):
            return None
        return kernels.quantize_input_by_step(
            x, self.whole_zero_point(), self.levels, self._learned(features)
        )

    def _learned(self, features: Any) -> kernels.Learned:
        """The parameters, and the scales of their gradients for an input of so many features."""
        largest = 1 if self._largest is None else self._largest
        factor = step_factor(self.start_levels, self.levels)
        # Values, and so offsets, reach as far at any number of levels; an offset of an input that
        # was never negative stays.
        of_offset = gradient_scale(features, largest) if largest < self.levels - 1 else 0.0
        of_step = gradient_scale(features, largest, factor)
        return kernels.Learned(self.step_size, self.offset, of_step, of_offset)

    @torch.no_grad()
    def whole_zero_point(self) -> Tensor:
        """Return the zero point [1], a whole number; NaN until it is set."""
        if self.offset is None:
            return self.zero_point
        nearest = torch.round(self.offset * scale_of_steps(self.step_size))
        # Until it is set, and where the offset is not finite, it is NaN.
        return nearest.clamp(1 - self.levels, 0) + (self.zero_point + self.offset) * 0.0

    @torch.no_grad()
    def start_from(self, low: float, high: float, batches: int) -> None:
        """Take the step and the zero point of a range; see ``InputQuantizer.start_from``."""
        self._take_ends(*torch.tensor([low, high], device=self.zero_point.device))

    def _take_ends(self, low: Tensor, high: Tensor) -> None:
        self._set_zero_point(low, high)
        step = (high - low) / (self.levels - 1)
        self._set_step(torch.where(step == 0, 1.0, step))

    def _set_zero_point(self, low: Tensor, high: Tensor) -> None:
        zero = torch.round((self.levels - 1) * low / (high - low))
        # Where the input is all zero, or not finite; the step tells these two apart.
        self.zero_point.copy_(zero.nan_to_num(nan=0.0))
        self.read_zero_point()

    def _set_step(self, step: Tensor) -> None:
        self.step_size.copy_(step)
        if self.offset is not None:
            self.offset.copy_(self.zero_point * step)

    @torch.no_grad()
    def _start_once(self, x: Tensor) -> None:
        if not self.training or self._largest is not None or is_empty(x):
            return
        levels, self.levels = self.levels, self.start_levels
        self._start(x.detach())
        self.change_levels(levels)

    def _start(self, values: Tensor) -> None:
        low, high = distributed.all_reduce_range(torch.stack(torch.aminmax(values)).float())
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if self.start == "mse":
            ends = best_ends(thinned(values.float()), low, high, self.levels)
            low, high = distributed.mean(ends)
        if self.start != "mean":
            self._take_ends(low, high)
            return
        self._set_zero_point(low, high)
        magnitude = distributed.mean(values.float().abs().mean())
        self._set_step(initial_step(magnitude, self._largest or 1))

    @torch.no_grad()
    def change_levels(self, levels: int) -> None:
        """Round to another number of levels; the step and the zero point keep their ends."""
        factor = step_factor(self.levels, levels)
        super().change_levels(levels)
        self.step_size.mul_(factor)
        self.zero_point.copy_(torch.round(self.zero_point / factor))
        self.read_zero_point()

    def read_zero_point(self) -> None:
        """Take the largest multiple from the zero point; waits for the device."""
        ready = self.is_ready()
        # An input that is never positive has no positive level; the paper has no such case.
        self._largest = max(self.levels - 1 + int(self.zero_point), 1) if ready else None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state_dict, *args)
        if not self.zero_point.is_meta:
            self.read_zero_point()

    @property
    def scale(self) -> Tensor:
        """The scale S of values ``i / S``: one over the step."""
        return scale_of_steps(self.step_size)[0]

    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest multiple of the step."""
        step, lowest = float(self.step_size.detach()), float(self.whole_zero_point())
        return step * lowest, step * (lowest + self.levels - 1)

    def is_ready(self) -> bool:
        """Whether a training batch has set the zero point and the initial step."""
        return not bool(self.zero_point.isnan())

    def extra_repr(self) -> str:
        offset = "" if self.offset is None else ", offset=learned"
        return f"levels={self.levels}, step=learned{offset}"


def _features(x: Tensor) -> Any:
    """Return how many features one sample has; a tensor that waits is not read for it."""
    return x.shape[1:].numel() if isinstance(x, Tensor) else x[:1].numel()


def is_invalid(steps: Tensor) -> Tensor:
    """Return where ``steps`` are no step sizes: not positive, or not finite, or the inverse is."""
    inverse = steps.reciprocal()
    return ~((inverse > 0) & (inverse < torch.inf))


def scale_of_steps(steps: Tensor) -> Tensor:
    """Return the scales S of values ``i / S``, one over each learned step, without a gradient.

    That of an invalid step is NaN, and with it every value.
    """
    steps = steps.detach()
    return torch.where(is_invalid(steps), torch.nan, torch.ones_like(steps) / steps)


def step_factor(before: int | None, after: int | None) -> float:
    """Return what a step is multiplied by so that as many levels reach as far as before."""
    assert before is not None and after is not None
    return (before - 1) / (after - 1)


def initial_step(mean_magnitude: Tensor, largest: int) -> Tensor:
    """Return ``2 * mean|v| / sqrt(Qp)``, and 1 where all values are zero.

    Args:
        mean_magnitude: of the values that share a step, any shape.
        largest: Qp, the largest whole multiple of the step.
    """
    step = 2.0 * mean_magnitude / math.sqrt(largest)
    return torch.where(step == 0, 1.0, step)


def gradient_scale(numel: Any, largest: int, factor: float = 1.0) -> float:
    """Return ``1 / sqrt(N * Qp)``, which keeps a step's updates in proportion to the weights'.

    Args:
        numel: N, how many weights share the step, or how many features of one sample do.
        largest: Qp, the largest whole multiple of the step.
        factor: of a step at the bits of a stage to that of its own bits, which is what is learned:
            by the chain rule it counts once in the gradient and once in the update.
    """
    if factor != 1.0:
        return factor**2 * gradient_scale(numel, largest)
    if not isinstance(numel, int):
        # A symbol of torch.fx, which stands for a number that it does not know yet.
        return (numel * largest) ** -0.5
    return 1.0 / math.sqrt(max(numel, 1) * largest)
