"""The float parts of evaluation in one stated order of sums; without gradients."""

import torch
from torch import Tensor

from .. import checks_exact
from ..shapes import ConvShape
from .registry import define, empty, no_mask


def _fake_conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    shape = ConvShape.of(x.shape, w.shape, stride, padding, dilation, groups)
    fresh = empty(x, shape.output_size, torch.float32)
    return fresh.contiguous(memory_format=torch.channels_last)


define(
    "conv2d_deterministic(Tensor x, Tensor w, Tensor bias, int[] stride, int[] padding,"
    " int[] dilation, int groups) -> Tensor",
    checks_exact.conv2d_deterministic,
    _fake_conv2d,
)
define(
    "linear_deterministic(Tensor x, Tensor w, Tensor mask, int levels, Tensor bias) -> Tensor",
    checks_exact.linear,
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
