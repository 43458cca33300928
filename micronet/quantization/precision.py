"""The precision of a layer's two operands, and what follows from it for its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

import micronet_kernels as kernels
from micronet.recipe.schema import STEPS

_EVALUATED = "; evaluated in integers"


@dataclass(frozen=True)
class LayerBits:
    """The precision of one layer; None keeps the operand in float.

    A step is "range" or "learned"; the decay is that of a range of activations. ``left_because``
    says why a layer is in float that a recipe's defaults would quantize; it is a remark, by which
    two precisions do not differ.

    Raises:
        ValueError: a step is neither.
    """

    weight_bits: float | None
    activation_bits: float | None
    decay: float = 0.99
    weight_step: str = "range"
    activation_step: str = "range"
    left_because: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Hold the steps to what there is: another word would train something else."""
        for operand in ("weight_step", "activation_step"):
            if (step := getattr(self, operand)) not in STEPS:
                raise ValueError(
                    f"{operand} is {step!r}, but must be {' or '.join(map(repr, STEPS))}"
                )

    @property
    def weight_levels(self) -> int | None:
        """Number of levels of a weight: ``floor(2**bits)``."""
        return None if self.weight_bits is None else kernels.levels_of_bits(self.weight_bits)

    @property
    def activation_levels(self) -> int | None:
        """Number of levels of an input activation: ``floor(2**bits)``."""
        bits = self.activation_bits
        return None if bits is None else kernels.levels_of_bits(bits)

    @property
    def is_float(self) -> bool:
        """Whether neither operand is quantized."""
        return self.weight_bits is None and self.activation_bits is None

    @property
    def float_because(self) -> str | None:
        """Why training computes products of these operands in float; None where in integers."""
        weights, inputs = self.weight_levels, self.activation_levels
        if weights is None or inputs is None:
            operands = {"weights": weights, "input": inputs}
            kept = " and ".join(name for name, levels in operands.items() if levels is None)
            return f"its {kept} stay in float" if weights is None else f"its {kept} stays in float"
        if "learned" in (self.weight_step, self.activation_step):
            return f"a learned step{_EVALUATED}"
        limits = (inputs, kernels.MOST_CODE_LEVELS), (weights, kernels.MOST_WEIGHT_LEVELS)
        for (levels, most), operand in zip(limits, ("inputs", "weights"), strict=True):
            if levels > most:
                limit = f"integer convolutions take up to {most}"
                return f"{operand} of {levels} levels, {limit}{_EVALUATED}"
        return None
