"""Quantizers of a layer's input: what all share, and the one that follows a range."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import micronet_kernels as kernels
from micronet.quantization.quantizers.calls import Calls
from micronet.utils import distributed
from micronet.utils.errors import UserError
from micronet.utils.unsaved_buffers import UnsavedBuffers


class InputQuantizer(UnsavedBuffers, ABC):
    """Fake-quantizes the input of a layer to ``levels`` levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """The scale S of frozen values ``i / S``, a scalar."""

    @abstractmethod
    def codes(self, x: Tensor, features: int) -> kernels.QuantizedInput | None:
        """Return the codes of images ``x`` (batch, channels, height, width).

        One sample of the input that they come from has as many ``features``; a border adds to the
        images, not to the input. None where the quantizer is frozen and a value is not finite, for
        which there is no code; in training such a value makes every value NaN, and with it all that
        follows.
        """

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
        self._calls = Calls()

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized values of ``x``, any shape.

        Raises:
            UserError: it is evaluated before anything has set its range.
        """
        range = self.range
        if self.training:
            range = self._follow(x)
        else:
            self._require_range(x)
        return kernels.fake_quant_per_tensor(x, range, self.levels)

    def codes(self, x: Tensor, features: int) -> kernels.QuantizedInput | None:
        """Return the codes of images; see ``InputQuantizer.codes``."""
        range = self.range
        if self.training:
            range = self._follow(x)
        else:
            self._require_range(x)
            if not kernels.is_finite(x):
                return None
        return kernels.quantize_input(x, range, self.levels)

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

    def _follow(self, x: Tensor) -> Tensor:
        """Move the range by the batch of all processes; return the one to round this batch by.

        Where the backward pass calls the layer again, as gradient checkpointing does, nothing
        moves: its codes must be those of the first call, by the range that this call found. An
        empty input, as of a head without a region, has no range.
        """
        if is_empty(x):
            return self.range
        if _in_backward():
            return self._calls.range_of(kernels.extremes(x), self.range)
        again = _may_be_made_again()
        if again or isinstance(x, kernels.LazyTensor) or distributed.is_several():
            found = kernels.extremes(x)
            widest = distributed.all_reduce_range(found)
            kernels.move_range_(widest, self.ema, self.range, self.step, self.decay)
            if again:
                self._calls.add(found, self.range)
        else:
            kernels.update_range_(x, self.ema, self.range, self.step, self.decay)
        return self.range

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


def is_empty(x: Tensor) -> bool:
    """Whether an input has no elements in a process that need not meet others."""
    return kernels.is_eager(x) and x.numel() == 0 and not distributed.is_several()


def _may_be_made_again() -> bool:
    """Whether this may be the first call of two, of which the second one is in the backward pass.

    Gradient checkpointing calls a layer without a gradient at first, or under hooks that keep none
    of its tensors. Other calls need not be remembered, which takes some microseconds.
    """
    if torch.compiler.is_compiling():
        return False
    if not torch.is_grad_enabled():
        return True
    hooks: object = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None


def _in_backward() -> bool:
    """Whether torch's backward pass is what calls."""
    # What torch.utils.checkpoint asks, too; torch.compile does not see into it.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
