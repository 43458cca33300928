"""Quantizers of a layer's input, and the initial step of learned ones.

``ActivationQuantizer`` follows the range of its input. ``LearnedActivationQuantizer`` learns its
step as a parameter: learned step size quantization (LSQ), Esser et al. 2020, "Learned Step Size
Quantization", whose section 2.1 gives the initial step and section 2.2 the gradient's scale.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.utils import distributed
from micronet.utils.errors import UserError


class InputQuantizer(nn.Module, ABC):
    """Fake-quantizes the input of a layer to ``levels`` levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """The scale S of frozen values ``i / S``, a scalar."""

    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest value of a frozen input; waits for the device."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether a training batch has set its state; waits for the device."""

    @abstractmethod
    def start_from(self, low: float, high: float, batches: int) -> None:
        """Take a range in place of what training batches would set.

        Args:
            low: the lowest value, at most 0.
            high: the highest value, at least 0.
            batches: as many have been seen, so much is it worth beside those of training.
        """

    def change_levels(self, levels: int) -> None:
        """Round to another number of levels between the same ends."""
        self.levels = levels


class ActivationQuantizer(InputQuantizer):
    """Fake-quantizes its input under the bias-corrected moving average of its range.

    Training updates the range with each batch, then quantizes that batch; evaluation freezes it.
    The state lives in buffers: ``ema`` and ``range`` are (low, high), ``step`` counts batches.
    """

    ema: Tensor
    range: Tensor
    step: Tensor

    def __init__(self, levels: int, decay: float) -> None:
        super().__init__(levels)
        self.decay = decay
        self.register_buffer("ema", torch.zeros(2))
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        # Whether the range is known to be set, on the host: it stays so.
        self._has_range = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized values of ``x``, any shape.

        Raises:
            UserError: it is evaluated before anything has set its range.
        """
        if self.training:
            self._follow(x)
        else:
            self._require_range(x)
        return kernels.fake_quant_per_tensor(x, self.range, self.levels)

    def codes(self, x: Tensor) -> kernels.QuantizedInput | None:
        """Return the codes of images ``x`` (batch, channels, height, width).

        None where the range is frozen and a value is not finite, for which there is no code; in
        training such a value makes the range NaN, and with it everything that follows.
        """
        if self.training:
            self._follow(x)
        else:
            self._require_range(x)
            if not kernels.is_finite(x):
                return None
        return kernels.quantize_input(x, self.range, self.levels)

    def _require_range(self, x: Tensor) -> None:
        """Refuse what would make every value zero; waits for the device until there is a range."""
        if self._has_range or not kernels.is_eager(x, self.range):
            return
        self._has_range = self.is_ready() or bool(self.range.any())
        if not self._has_range:
            raise UserError(
                "a quantized layer is evaluated, but its input has no range yet: train the "
                "network, or call micronet.calibrate_"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state_dict, *args)
        self._has_range = False

    def _follow(self, x: Tensor) -> None:
        """Move the range by the batch of all processes.

        Not where the backward pass calls the layer again, as gradient checkpointing does: its codes
        must be those of the first call, whose batch has moved the range already. An empty input, as
        of a head without a region, has no range.
        """
        if _in_backward() or _is_empty(x):
            return
        if isinstance(x, kernels.LazyTensor) or distributed.is_several():
            widest = distributed.all_reduce_range(kernels.extremes(x))
            kernels.move_range_(widest, self.ema, self.range, self.step, self.decay)
        else:
            kernels.update_range_(x, self.ema, self.range, self.step, self.decay)

    @property
    def scale(self) -> Tensor:
        """The scale S of values ``i / S`` under the range."""
        return kernels.scale_of_range(self.range, self.levels)

    def ends(self) -> tuple[float, float]:
        """Return the range."""
        return float(self.range[0]), float(self.range[1])

    def is_ready(self) -> bool:
        """Whether a training batch has set the range."""
        return int(self.step) > 0

    @torch.no_grad()
    def start_from(self, low: float, high: float, batches: int) -> None:
        """Take a range as the average over some batches; see ``InputQuantizer.start_from``."""
        self.range.copy_(torch.tensor([low, high]))
        self.ema.copy_(self.range * (1.0 - self.decay**batches))
        self.step.fill_(batches)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, decay={self.decay}"


class LearnedActivationQuantizer(InputQuantizer):
    """Fake-quantizes its input to whole multiples of a step that the optimizer learns.

    The first training batch sets the initial step and, for good, the zero point: 0 for an input
    that is never negative. Until then the zero point is NaN, and so is every value.
    """

    step_size: nn.Parameter
    zero_point: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.step_size = nn.Parameter(torch.ones(1))
        self.register_buffer("zero_point", torch.full((1,), torch.nan))
        # The largest multiple, on the host, so that no later step waits for the device.
        self._largest: int | None = None
        # For as many levels the initial step is chosen; others then reach as far.
        self.start_levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized values of ``x`` (batch, ...)."""
        if self.training and self._largest is None and not _is_empty(x):
            self._start(x.detach())
        largest = 1 if self._largest is None else self._largest
        factor = step_factor(self.start_levels, self.levels)
        scale = gradient_scale(x[:1].numel(), largest, factor)
        return kernels.fake_quant_learned_step(
            x, self.step_size, self.zero_point, self.levels, gradient_scale=scale
        )

    @torch.no_grad()
    def start_from(self, low: float, high: float, batches: int) -> None:
        """Take the step and the zero point of a range; see ``InputQuantizer.start_from``."""
        self._set_zero_point(*torch.tensor([low, high], device=self.zero_point.device))
        self.step_size.fill_((high - low) / (self.levels - 1) or 1.0)

    def _set_zero_point(self, low: Tensor, high: Tensor) -> None:
        zero = torch.round((self.levels - 1) * low / (high - low))
        # Where the input is all zero, or not finite; the step tells these two apart.
        self.zero_point.copy_(zero.nan_to_num(nan=0.0))
        self.read_zero_point()

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        levels, self.levels = self.levels, self.start_levels
        low, high = distributed.all_reduce_range(torch.stack(torch.aminmax(x)).float())
        self._set_zero_point(low.clamp(max=0.0), high.clamp(min=0.0))
        magnitude = distributed.mean(x.float().abs().mean())
        self.step_size.copy_(initial_step(magnitude, self._largest or 1))
        self.change_levels(levels)

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
        step, lowest = float(self.step_size.detach()), float(self.zero_point)
        return step * lowest, step * (lowest + self.levels - 1)

    def is_ready(self) -> bool:
        """Whether a training batch has set the zero point and the initial step."""
        return not bool(self.zero_point.isnan())

    def extra_repr(self) -> str:
        return f"levels={self.levels}, step=learned"


def _is_empty(x: Tensor) -> bool:
    """Whether an input has no elements in a process that need not meet others."""
    return kernels.is_eager(x) and x.numel() == 0 and not distributed.is_several()


def _in_backward() -> bool:
    """Whether torch's backward pass is what calls."""
    # What torch.utils.checkpoint asks, too; torch.compile does not see into it.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def scale_of_steps(steps: Tensor) -> Tensor:
    """Return the scales S of values ``i / S``, one over each learned step, without a gradient."""
    return torch.ones_like(steps) / steps.detach()


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
