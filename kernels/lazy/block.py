"""What a tensor of a block stands for: function(fma(sums, scale, shift)), times a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..operands import Coding
from ..scheme import Function
from ..shapes import in_order

_OP = torch.ops.micronet


@cache
def _nothing(device: torch.device) -> Tensor:
    """One empty tensor for all: a step passes hundreds. An ordinary one, whoever asks first."""
    with _disable_current_modes(), torch.inference_mode(False):
        return torch.empty(0, dtype=torch.float32, device=device)


class Remade:
    """Sums that are not kept for the backward pass: made again there once, for all its nodes.

    From the codes that their convolution read, which each node keeps in their place.
    """

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self._make = make
        self._made: Tensor | None = None

    def get(self, codes: Tensor) -> Tensor:
        """Return the sums."""
        if self._made is None:
            self._made = self._make(codes)
        return self._made

    def drop(self) -> None:
        """Forget the sums, which the backward pass has read."""
        self._made = None


@dataclass(frozen=True)
class Block:
    """Images [N, C, H, W] as the sums of a convolution and what was called on them.

    Attributes:
        sums: int16, int32 or float32, channels last in memory.
        scale: [C]; of a convolution of codes the step between two sums' values.
        shift: [C], None for none.
        gate: [N, C], None for none.
        channels_last: the order of the values in memory.
        remade: makes the sums anew in the backward pass, None where they are kept.
        input_codes: what they are made from then, else None.
        is_normalized: whether scale and shift are those of a normalization.
        key: tells this block from every other, wherever its tensors travel.
        affine_key: the same for all that share sums, scale and shift.
    """

    sums: Tensor = field(repr=False)
    scale: Tensor = field(repr=False)
    shift: Tensor | None = field(repr=False)
    channels_last: bool
    remade: Remade | None = field(default=None, repr=False)
    input_codes: Tensor | None = field(default=None, repr=False)
    function: Function = Function.IDENTITY
    gate: Tensor | None = field(default=None, repr=False)
    is_normalized: bool = False
    key: object = field(default_factory=object, repr=False)
    affine_key: object = field(default_factory=object, repr=False)

    @property
    def size(self) -> torch.Size:
        """[N, C, H, W]."""
        return self.sums.shape

    def _but(self, **changes: Any) -> Block:
        """The block with other attributes; a step makes a thousand, which `replace` is slow at."""
        other = object.__new__(Block)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def none(self) -> Tensor:
        """An empty tensor, which stands for no gate, no range and no gradient of the means."""
        return _nothing(self.scale.device)

    def affine(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """The first arguments of every operator on blocks."""
        shift = torch.zeros_like(self.scale) if self.shift is None else self.shift
        return self.sums, self.scale, shift, int(self.function)

    def gated(self) -> tuple[Any, ...]:
        """The first arguments of the operators that read the values."""
        return *self.affine(), self.none() if self.gate is None else self.gate

    def values(self) -> Tensor:
        """The values, float32, in their order in memory."""
        return in_order(_OP.block_values.default(*self.gated()), self.channels_last)

    def extremes(self) -> Tensor:
        """The least and the largest value [2], both NaN where one is."""
        return _OP.block_extremes.default(*self.gated())

    def codes(self, coding: Coding) -> Tensor:
        """The codes of the values, half a byte each or a whole one."""
        return _OP.block_codes.default(*self.gated(), *coding)

    def step_sums(self, grad: Tensor, coding: Coding) -> Tensor:
        """The gradients [2], float64, to a learned step and its offset, of one to the values."""
        grad = grad.contiguous(memory_format=torch.channels_last)
        return _OP.block_step_sums.default(grad, *self.gated(), *coding).sum(1)

    def is_finite(self) -> bool:
        """Whether every value is finite; waits for the device.

        Integers stay finite if the largest does under the largest factors; else values are read.
        """
        if not self.sums.is_floating_point() and bool(torch.isfinite(self._bound())):
            return True
        return bool(torch.isfinite(self.extremes()).all())

    def poison(self) -> Tensor:
        """Zero where every value is finite, else NaN, a scalar; waits for nothing.

        NaN also where values of integers might be infinite: where factors are beyond 10^29.
        """
        found = self.extremes().sum() if self.sums.is_floating_point() else self._bound()
        return found * 0.0

    def _bound(self) -> Tensor:
        """What no value of integers exceeds, a scalar."""
        largest = self.scale.abs().amax() * 2.0**31
        if self.shift is not None:
            largest = largest + self.shift.abs().amax()
        return largest if self.gate is None else largest * (1.0 + self.gate.abs().amax())

    # What may be called on it next --------------------------------------------------------------

    @property
    def takes_norm(self) -> bool:
        """Whether a normalization can be folded into scale and shift."""
        return not self.is_normalized and self.takes_function

    @property
    def takes_function(self) -> bool:
        """Whether an activation function can follow."""
        return self.function == Function.IDENTITY and self.gate is None

    def with_affine(self, scale: Tensor, shift: Tensor) -> Block:
        """The same sums under a normalization's scale and shift [C]."""
        return self._but(
            scale=scale, shift=shift, is_normalized=True, key=object(), affine_key=object()
        )

    def with_function(self, function: Function) -> Block:
        """The activation function of the values."""
        return self._but(function=function, key=object())

    def with_gate(self, gate: Tensor) -> Block:
        """The values times a gate [N, C]."""
        return self._but(gate=gate, key=object())

    # What a node of autograd keeps --------------------------------------------------------------

    def to_save(self) -> tuple[Tensor | None, ...]:
        """The tensors to keep for the backward pass; `restored` takes them back."""
        return self.input_codes if self.remade else self.sums, self.scale, self.shift, self.gate

    def outline(self) -> Block:
        """The block without its tensors, for a node to keep beside what it saved."""
        nothing: Any = None
        return self._but(sums=nothing, input_codes=None, scale=nothing, shift=nothing, gate=nothing)

    def restored(
        self, kept: Tensor, scale: Tensor, shift: Tensor | None, gate: Tensor | None
    ) -> Block:
        """The block of an outline and what was saved of it."""
        sums = kept if self.remade is None else self.remade.get(kept)
        # Hooks on saved tensors may lose the order in memory.
        sums = sums.contiguous(memory_format=torch.channels_last)
        return self._but(sums=sums, scale=scale, shift=shift, gate=gate)

    def drop_remade(self) -> None:
        """Forget sums that were made again: the backward pass has left this block."""
        if self.remade is not None:
            self.remade.drop()
