"""What torch's FlopCounterMode counts for the operators that convolve and multiply.

Two operations a product, as it counts its own. Tensors come as their shapes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch

_OP = torch.ops.micronet


def _of_sums(output: Any, weight: Any) -> int:
    return 2 * prod(output) * prod(weight[1:])


def _quant_conv2d(
    codes: Any, range: Any, levels: int, scheme: int, w: Any, *rest: Any, out_shape: Any
) -> int:
    return _of_sums(out_shape[0], w)


def _quant_conv2d_values(
    codes: Any, range: Any, levels: int, scheme: int, w: Any, *rest: Any, out_shape: Any
) -> int:
    return _of_sums(out_shape, w)


def _depthwise_gradient(
    grad: Any, x: Any, table: Any, w: Any, *numbers: Any, out_shape: Any
) -> int:
    *_, wants_x, wants_w = numbers
    return (wants_x + wants_w) * _of_sums(grad, w)


def _of_weights(x: Any, w: Any, *rest: Any, out_shape: Any) -> int:
    return _of_sums(out_shape, w)


def register_flop_formulas() -> None:
    """Tell torch's counter what the operators cost; loads the counter, which loads Triton."""
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(_OP.quant_conv2d)(_quant_conv2d)
    register_flop_formula(_OP.quant_conv2d_values)(_quant_conv2d_values)
    register_flop_formula(_OP.depthwise_gradient)(_depthwise_gradient)
    register_flop_formula([_OP.conv2d_deterministic, _OP.linear_deterministic])(_of_weights)
