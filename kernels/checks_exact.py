"""What the operators of evaluation in float refuse."""

import torch
from torch import Tensor

from .checks import check, check_same_device, check_weights
from .scheme import check_quantizer
from .shapes import ConvShape


def conv2d_deterministic(
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """Check of `conv2d_deterministic`; x is channels last, an empty bias is none."""
    check("x", x, torch.float32)
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last) or not x.numel():
        raise ValueError(f"x has shape {list(x.shape)}, but must be images, channels last")
    check("w", w, torch.float32)
    if w.dim() != 4 or not w.is_contiguous() or not w.numel():
        raise ValueError(f"w has shape {list(w.shape)}, but must be contiguous, of 4 dimensions")
    _check_bias(bias, w)
    check_same_device("w", w, x)
    if groups < 1:
        raise ValueError(f"groups is {groups}, but must be positive")
    ConvShape.of(x.shape, w.shape, stride, padding, dilation, groups)


def _check_bias(bias: Tensor, w: Tensor) -> None:
    check("bias", bias, torch.float32, (w.shape[0] if bias.numel() else 0,))
    check_same_device("bias", bias, w)


def linear(x: Tensor, w: Tensor, mask: Tensor, levels: int, bias: Tensor) -> None:
    """Check of `linear_deterministic`; levels of 0 leave the weights in float."""
    check("x", x, torch.float32)
    check("w", w, torch.float32)
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or not x.is_contiguous():
        sizes = f"{list(x.shape)} and {list(w.shape)}"
        raise ValueError(f"x and w have shapes {sizes}, but must have [N, K] and [O, K], in order")
    check_weights(w, mask)
    if levels:
        check_quantizer(levels, 0)
    _check_bias(bias, w)
    check_same_device("w", w, x)
