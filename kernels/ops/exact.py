"""The float parts of evaluation in one stated order of sums; without gradients."""

import torch
from torch import Tensor

from ..checks import check, check_same_device, check_weights
from ..operands import FloatConvolution, schema_of, takes
from ..scheme import check_quantizer
from .registry import define, empty, no_mask


@takes(FloatConvolution)
def _check_conv2d(c: FloatConvolution) -> None:
    """x is channels last, an empty bias is none."""
    x, w = c.x, c.w
    check("x", x, torch.float32)
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last) or not x.numel():
        raise ValueError(f"x has shape {list(x.shape)}, but must be images, channels last")
    check("w", w, torch.float32)
    if w.dim() != 4 or not w.is_contiguous() or not w.numel():
        raise ValueError(f"w has shape {list(w.shape)}, but must be contiguous, of 4 dimensions")
    _check_bias(c.bias, w)
    check_same_device("w", w, x)
    if c.groups < 1:
        raise ValueError(f"groups is {c.groups}, but must be positive")
    _ = c.shape


def _check_bias(bias: Tensor, w: Tensor) -> None:
    check("bias", bias, torch.float32, (w.shape[0] if bias.numel() else 0,))
    check_same_device("bias", bias, w)


def _check_linear(x: Tensor, w: Tensor, mask: Tensor, levels: int, bias: Tensor) -> None:
    """Levels of 0 leave the weights in float."""
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


@takes(FloatConvolution)
def _fake_conv2d(c: FloatConvolution) -> Tensor:
    fresh = empty(c.x, c.shape.output_size, torch.float32)
    return fresh.contiguous(memory_format=torch.channels_last)


define(
    f"conv2d_deterministic({schema_of(FloatConvolution)}) -> Tensor", _check_conv2d, _fake_conv2d
)
define(
    "linear_deterministic(Tensor x, Tensor w, Tensor mask, int levels, Tensor bias) -> Tensor",
    _check_linear,
    lambda x, w, *_: empty(x, (x.shape[0], w.shape[0]), torch.float32),
)

_OP = torch.ops.micronet


def conv2d_deterministic(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """A float32 convolution of x [N, C, H, W] with w [O, C / groups, KH, KW], channels last.

    Each output has one accumulator and takes its products by fma, over the input channels and for
    each over the taps, row by row; so it is the same on every machine, in any batch. padding is
    (top, left, bottom, right). No gradient. Raises ValueError for sizes, TypeError for a dtype.
    """
    return _OP.conv2d_deterministic.default(
        x.detach().contiguous(memory_format=torch.channels_last),
        w.detach().contiguous(),
        x.new_empty(0) if bias is None else bias.detach(),
        list(stride),
        list(padding),
        list(dilation),
        groups,
    )


def linear_deterministic(
    x: Tensor, w: Tensor, bias: Tensor | None, levels: int = 0, mask: Tensor | None = None
) -> Tensor:
    """x [N, K] times w [O, K], masked and rounded to levels unless those are 0, plus bias [O].

    16 accumulators take terms l, l + 16, ... by fma and are added pairwise; the integers of the
    weights are summed, and fma(sum, 1 / scale, bias) is the value. No gradient. Raises ValueError
    for sizes or levels, TypeError for a dtype.
    """
    weights = w.detach().contiguous()
    return _OP.linear_deterministic.default(
        x.detach().contiguous(),
        weights,
        no_mask(weights, mask),
        levels,
        x.new_empty(0) if bias is None else bias.detach(),
    )
