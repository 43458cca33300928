"""What the operators over convolutions of codes refuse."""

import torch
from torch import Tensor

from .checks import MOST_CODE_LEVELS, check, check_same_device, check_weights, unpack_codes
from .scheme import check_quantizer
from .shapes import ConvShape, accumulator_dtype

# The integer images of weights are signed bytes.
MOST_WEIGHT_LEVELS = 128


def quant_conv2d(
    codes: Tensor,
    range: Tensor,
    levels: int,
    w: Tensor,
    mask: Tensor,
    weight_levels: int,
    input_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """Check of `quant_conv2d`; the integer sums must fit 32 bits."""
    _check_levels("levels", levels, MOST_CODE_LEVELS)
    _check_levels("weight_levels", weight_levels, MOST_WEIGHT_LEVELS)
    _check_sizes("input_size", input_size, 4, 1)
    _check_sizes("stride", stride, 2, 1)
    _check_sizes("padding", padding, 4, 0)
    _check_sizes("dilation", dilation, 2, 1)
    n, c, h, width = input_size
    unpack_codes(codes, n * c * h * width, MOST_CODE_LEVELS)
    check("range", range, torch.float32, (2,))
    check_weights(w, mask)
    if w.dim() != 4:
        raise ValueError(f"w has shape {list(w.shape)}, but must have [out, in, height, width]")
    if groups < 1:
        raise ValueError(f"groups is {groups}, but must be positive")
    for name, other in (("range", range), ("w", w)):
        check_same_device(name, other, codes)
    shape = ConvShape.of(input_size, w.shape, stride, padding, dilation, groups)
    accumulator_dtype(shape, levels, weight_levels)


def _check_levels(name: str, levels: int, most: int) -> None:
    check_quantizer(levels, 0)
    if levels > most:
        raise ValueError(f"{name} is {levels}, but must be at most {most}")


def _check_sizes(name: str, sizes: list[int], count: int, least: int) -> None:
    if len(sizes) != count or min(sizes) < least:
        raise ValueError(f"{name} is {sizes}, but must be {count} numbers of at least {least}")
