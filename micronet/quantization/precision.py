"""The precision of a layer's two operands, and what follows from it for its arithmetic."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import micronet_kernels as kernels
from micronet.quantization.quantizers.images import GREY_BITS, moments_problem
from micronet.recipe.schema import ACTIVATION_STEPS, IMAGE, STARTS, STEPS


@dataclass(frozen=True)
class LayerBits:
    """The precision of one layer; None keeps the operand in float.

    A step is "range" or "learned"; the decay is that of a range of activations. ``symmetric``
    weights have their zero point at 0. A learned step of activations may come with a learned
    ``offset``, and starts from the mean magnitude, the range or the least square error of the
    first batch. An ``activation_step`` of "image" is that of the grey values of images, of 8 bits,
    which are normalized by ``image_mean`` and ``image_std``, one number for each channel; both are
    None where only the precision matters, as in a plan that is scored. ``left_because`` says why a
    layer is in float that a recipe's defaults would quantize; it is a remark, by which two
    precisions do not differ.

    Raises:
        ValueError: a step is neither, or a number is none that an operand can be rounded by.
    """

    weight_bits: float | None
    activation_bits: float | None
    decay: float = 0.99
    weight_step: str = "range"
    activation_step: str = "range"
    symmetric: bool = False
    offset: bool = False
    activation_start: str = "mean"
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    left_because: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Hold the values to what there is: another would train something else."""
        for operand, steps in (("weight", STEPS), ("activation", ACTIVATION_STEPS)):
            bits, step = getattr(self, f"{operand}_bits"), getattr(self, f"{operand}_step")
            if step not in steps:
                known = " or ".join(map(repr, steps))
                raise ValueError(f"{operand}_step is {step!r}, but must be {known}")
            if bits is not None and not _is_number(bits, 1, 8):
                raise ValueError(f"{operand}_bits is {bits!r}, but must be from 1 to 8")
            if bits is not None and step == "learned" and kernels.levels_of_bits(bits) < 3:
                raise ValueError(f"{operand}_bits {bits} are too few for a learned step")
        if not _is_number(self.decay, 0, 1):
            raise ValueError(f"decay is {self.decay!r}, but must be from 0 to 1")
        self._check_variants()
        self._check_image()

    def _check_variants(self) -> None:
        if self.symmetric and self.weight_step == "learned":
            raise ValueError("symmetric is of weights whose step follows their range")
        if self.symmetric and self.weight_levels is not None and self.weight_levels < 3:
            raise ValueError(f"weight_bits {self.weight_bits} are too few for symmetric weights")
        if self.activation_start not in STARTS:
            known = " or ".join(map(repr, STARTS))
            raise ValueError(f"activation_start is {self.activation_start!r}, but must be {known}")
        if self.offset and self.activation_step != "learned":
            raise ValueError("offset is of a learned activation_step")

    def _check_image(self) -> None:
        mean, std = self.image_mean, self.image_std
        if not self.reads_image:
            if mean is not None or std is not None:
                raise ValueError(f"image_mean and image_std are of an activation_step {IMAGE!r}")
            return
        if self.activation_bits != GREY_BITS or self.weight_bits is None:
            raise ValueError(
                f"an activation_step {IMAGE!r} is of {GREY_BITS} bits, and of quantized weights"
            )
        if (mean is None) != (std is None):
            raise ValueError("image_mean and image_std belong together")
        if mean is None or std is None:
            return
        # Lists in JSON.
        mean, std = tuple(map(float, mean)), tuple(map(float, std))
        object.__setattr__(self, "image_mean", mean)
        object.__setattr__(self, "image_std", std)
        if problem := moments_problem(mean, std):
            raise ValueError(problem)

    def to_plain(self) -> dict[str, Any]:
        """Return the fields, with lists for tuples as JSON has them."""
        fields = dataclasses.asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields}

    @property
    def reads_image(self) -> bool:
        """Whether the input is an image, rounded to its own grey values."""
        return self.activation_step == IMAGE

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
    def weight_scheme(self) -> kernels.Scheme:
        """The rule by which the range of an output channel becomes a quantizer."""
        return kernels.Scheme.SYMMETRIC if self.symmetric else kernels.Scheme.AFFINE

    @property
    def is_float(self) -> bool:
        """Whether neither operand is quantized."""
        return self.weight_bits is None and self.activation_bits is None

    @property
    def scales_sums(self) -> bool:
        """Whether a linear layer sums float inputs times integer weights, and scales the sums."""
        is_range = self.weight_bits is not None and self.weight_step == "range"
        return self.activation_bits is None and is_range and not self.symmetric

    def why_float(self, depth: int) -> str | None:
        """Return why training computes sums of products of these operands in float.

        Args:
            depth: how many products make one output.

        Returns:
            None where it computes them in integers.
        """
        weights, inputs = self.weight_levels, self.activation_levels
        if weights is None or inputs is None:
            operands = {"weights": weights, "input": inputs}
            kept = " and ".join(name for name, levels in operands.items() if levels is None)
            return f"its {kept} stay in float" if weights is None else f"its {kept} stays in float"
        if not kernels.fits_32_bits(depth, inputs, weights):
            return (
                f"sums of {depth} products of {inputs} by {weights} levels need more than 32 bits"
            )
        return None


def _is_number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]
