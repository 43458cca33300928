"""Quantizers of a scale and a zero point, made of what the operators take: a range, or a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.quantization.quantizers.inputs import ActivationQuantizer, InputQuantizer
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer

# A quotient of two rounded numbers lies so many neighbors away at most.
_NEIGHBORS = 8


class ScaleError(ValueError):
    """A scale that no quantizer has."""


def quantizer_of(scale: float, zero_point: int, levels: int) -> InputQuantizer:
    """Return what rounds x to ``(clamp(rint(scale * x + zero_point), 0, L - 1) - zero_point)``.

    Args:
        scale: S, a float32 of values ``i / S``.
        zero_point: the code of 0.
        levels: L.

    Raises:
        ScaleError: neither a range nor a step has this scale.
    """
    width = _quotient_of(float(levels - 1), scale)
    if width is not None:
        return _of_range(width, zero_point, levels)
    step = _quotient_of(1.0, scale)
    if step is None:
        raise ScaleError(f"scale {scale!r} is that of no quantizer of {levels} levels")
    quantizer = LearnedActivationQuantizer(max(levels, 2))
    quantizer.step_size = torch.nn.Parameter(torch.tensor([step]), requires_grad=False)
    quantizer.zero_point.fill_(-zero_point)
    quantizer.read_zero_point()
    return quantizer.eval()


def _of_range(width: float, zero_point: int, levels: int) -> InputQuantizer:
    """Return the quantizer of a range of this width whose zero point is the given one.

    The low end is a multiple of the width's last bit, so that low + width is exact.
    """
    bit = float(np.spacing(np.float32(width)))
    low = -round(zero_point * width / (levels - 1) / bit) * bit
    quantizer = ActivationQuantizer(levels, 0.0)
    quantizer.range.copy_(torch.tensor([low, low + width], dtype=torch.float64))
    quantizer.step.fill_(1)
    return quantizer.eval()


def _quotient_of(numerator: float, scale: float) -> float | None:
    """Return a positive float32 d with ``numerator / d == scale``, None where there is none."""
    wanted, top = np.float32(scale), np.float32(numerator)
    if not np.isfinite(wanted) or wanted <= 0:
        return None
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        start = top / wanted
        below = above = start
        for _ in range(_NEIGHBORS):
            for candidate in (below, above):
                if np.isfinite(candidate) and candidate > 0 and top / candidate == wanted:
                    return float(candidate)
            below = np.nextafter(below, np.float32(0))
            above = np.nextafter(above, np.float32(np.inf))
    return None


def check_like(quantizer: InputQuantizer, scale: float, zero_point: int) -> None:
    """Hold a quantizer to what it was made from.

    Raises:
        ScaleError: its scale or its zero point is another, as of denormal numbers.
    """
    far = torch.tensor([-3e38, 3e38])
    with torch.no_grad():
        ends = quantizer(far)
        found = float(quantizer.scale)
        low = round(float(ends[0]) * found)
    if found != scale or low != -zero_point:
        raise ScaleError(f"scale {scale!r} with zero point {zero_point} is that of no quantizer")


def grey_quantizer(
    mean: Sequence[float], std: Sequence[float], scale: float, border: Sequence[int]
) -> ImageQuantizer:
    """Return what rounds images of such a normalization to grey values.

    Args:
        mean, std: of each channel of pixels in [0, 1].
        scale: S of values ``p / S``.
        border: the grey value of each channel that stands around images.

    Raises:
        ScaleError: the normalization has another scale, or another border.
    """
    quantizer = ImageQuantizer(mean, std).eval()
    wanted, zeros = scale_and_zero_points(quantizer)
    if float(wanted) != scale or zeros != list(border):
        raise ScaleError(
            f"scale {scale!r} with the border {list(border)} is not that of mean {list(mean)} "
            f"and std {list(std)}"
        )
    return quantizer


def scale_and_zero_points(quantizer: InputQuantizer) -> tuple[Tensor, list[int]]:
    """Return the scale [1] of a frozen quantizer, and the code of 0, of images of each channel."""
    with torch.no_grad():
        if isinstance(quantizer, ImageQuantizer):
            return quantizer.scale.reshape(1).cpu(), list(map(int, quantizer.border().tolist()))
        scale = quantizer.scale.detach().reshape(1).float()
        low, _ = (quantizer(torch.tensor([-3e38, 3e38], device=scale.device))).double().tolist()
    # Of a range that is too small to be cut into steps there is none.
    zero_point = -low * float(scale)
    return scale.cpu(), [round(zero_point) if math.isfinite(zero_point) else 0]
