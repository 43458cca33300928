"""What follows a convolution in a block, computed from its accumulators in every pass.

acc is [N, C, H, W], channels last, int16, int32 or float32; the value is
function(fma(acc, scale, shift)), scale and shift [C], times gate [N, C] unless the gate is empty.
"""

import torch
from torch import Tensor

from .. import checks_block
from ..scheme import packed_bytes
from .registry import define, empty

_AFFINE = "Tensor acc, Tensor scale, Tensor shift, int function"
_GRADIENT = f"Tensor grad, {_AFFINE}"


def _images(acc: Tensor) -> Tensor:
    return torch.empty_like(acc, dtype=torch.float32)


def _two_sums(acc: Tensor) -> Tensor:
    return empty(acc, (2, acc.shape[1]), torch.float64)


define("channel_moments(Tensor acc) -> Tensor", checks_block.channel_moments, _two_sums)
define(
    f"block_extremes({_AFFINE}, Tensor gate) -> Tensor",
    checks_block.values,
    lambda acc, *_: empty(acc, (2,), torch.float32),
)
define(
    f"block_codes({_AFFINE}, Tensor gate, Tensor range, int levels) -> Tensor",
    checks_block.codes,
    lambda acc, *_: empty(
        acc, (packed_bytes(acc.numel(), checks_block.MOST_CODE_LEVELS),), torch.uint8
    ),
)
define(
    f"block_values({_AFFINE}, Tensor gate) -> Tensor",
    checks_block.values,
    lambda acc, *_: _images(acc),
)
define(
    f"block_means({_AFFINE}) -> Tensor",
    checks_block.affine,
    lambda acc, *_: empty(acc, tuple(acc.shape[:2]), torch.float32),
)
define(
    f"block_gradient_sums({_GRADIENT}, Tensor range, Tensor mean_grad) -> Tensor",
    checks_block.gradient_sums,
    lambda grad, acc, *_: _two_sums(acc),
)
define(
    f"block_gradient({_GRADIENT}, Tensor range, Tensor mean_grad, Tensor k) -> Tensor",
    checks_block.gradient,
    lambda grad, acc, *_: _images(acc),
)
define(
    f"block_gate_gradient({_GRADIENT}, Tensor gate, Tensor range) -> (Tensor, Tensor)",
    checks_block.gate_gradient,
    lambda grad, acc, scale, shift, function, gate, range: (_images(acc), torch.empty_like(gate)),
)
