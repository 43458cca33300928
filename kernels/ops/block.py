"""What follows a convolution in a block, computed from its accumulators in every pass.

acc is [N, C, H, W], channels last, int16, int32 or float32; the value is
function(fma(acc, scale, shift)), scale and shift [C], times gate [N, C] unless the gate is empty.
A gradient to it, grad, is float32, bfloat16 or float16, and computed with in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import check, check_float, check_float_type, check_images, check_same_device
from ..operands import Affine, Coding, schema_of, takes
from ..scheme import Function, Scheme, check_quantizer, code_bytes
from .registry import define, empty

# What the operators refuse ----------------------------------------------------------------------

_FUNCTIONS = frozenset(map(int, Function))
_ACCUMULATORS = (torch.int16, torch.int32, torch.float32)


def _check_accumulators(acc: Tensor) -> None:
    if acc.dtype not in _ACCUMULATORS:
        raise TypeError(f"acc is {acc.dtype}, but must be int16, int32 or float32")
    check_images("acc", acc)


def _check_like(acc: Tensor, name: str, other: Tensor, shape: tuple[int, ...]) -> None:
    check(name, other, torch.float32, shape)
    check_same_device(name, other, acc)


def _check_optional(acc: Tensor, name: str, other: Tensor, shape: tuple[int, ...]) -> None:
    _check_like(acc, name, other, shape if other.numel() else (0,))


def _check_affine(affine: Affine) -> None:
    acc, scale, shift, function = affine
    _check_accumulators(acc)
    channels = (acc.shape[1],)
    _check_like(acc, "scale", scale, channels)
    _check_like(acc, "shift", shift, channels)
    if function not in _FUNCTIONS:
        raise ValueError(f"function is {function}, which is none of {list(map(int, Function))}")


def _check_values(affine: Affine, gate: Tensor) -> None:
    """An empty gate is none."""
    _check_affine(affine)
    _check_optional(affine.acc, "gate", gate, affine.acc.shape[:2])


def _check_codes(affine: Affine, gate: Tensor, coding: Coding) -> None:
    _check_values(affine, gate)
    _check_like(affine.acc, "range", coding.range, (2,))
    check_quantizer(coding.levels, coding.scheme)


def _check_gradient(grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor) -> None:
    """An empty range lets everything pass, no mean_grad adds 0."""
    acc = affine.acc
    _check_affine(affine)
    check_float("grad", grad)
    check_images("grad", grad)
    check("grad", grad, grad.dtype, acc.shape)
    check_same_device("grad", grad, acc)
    _check_optional(acc, "range", coding.range, (2,))
    check_quantizer(coding.levels, coding.scheme)
    _check_optional(acc, "mean_grad", mean_grad, acc.shape[:2])


def _check_mapped_gradient(
    grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor, k: Tensor, dtype: torch.dtype
) -> None:
    _check_gradient(grad, affine, coding, mean_grad)
    check_float_type("dtype", dtype)
    _check_like(affine.acc, "k", k, (3, affine.acc.shape[1]))


def _check_norm_gradient(dz: Tensor, acc: Tensor, k: Tensor) -> None:
    _check_accumulators(acc)
    check_images("dz", dz)
    _check_like(acc, "dz", dz, acc.shape)
    _check_like(acc, "k", k, (3, acc.shape[1]))


def _check_gate_gradient(grad: Tensor, affine: Affine, gate: Tensor, coding: Coding) -> None:
    _check_gradient(grad, affine, coding, gate.new_empty(0))
    _check_like(affine.acc, "gate", gate, affine.acc.shape[:2])


def _check_step_sums(grad: Tensor, affine: Affine, gate: Tensor, coding: Coding) -> None:
    _check_gradient(grad, affine, coding, gate.new_empty(0))
    _check_optional(affine.acc, "gate", gate, affine.acc.shape[:2])
    _check_like(affine.acc, "range", coding.range, (2,))
    if coding.scheme != Scheme.LEARNED:
        raise ValueError(f"scheme is {coding.scheme}, but only a learned step has a gradient")


# The operators ----------------------------------------------------------------------------------

_AFFINE, _CODING = schema_of(Affine), schema_of(Coding)


def _images(acc: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty_like(acc, dtype=dtype)


def _two_sums(acc: Tensor) -> Tensor:
    return empty(acc, (2, acc.shape[1]), torch.float64)


def _of_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    return takes(Coding, at=5)(takes(Affine, at=1)(function))


def _of_gated_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    return takes(Coding, at=6)(takes(Affine, at=1)(function))


define("channel_moments(Tensor acc) -> Tensor", _check_accumulators, _two_sums)
define(
    f"block_extremes({_AFFINE}, Tensor gate) -> Tensor",
    takes(Affine)(_check_values),
    lambda acc, *_: empty(acc, (2,), torch.float32),
)
define(
    f"block_codes({_AFFINE}, Tensor gate, {_CODING}) -> Tensor",
    takes(Coding, at=5)(takes(Affine)(_check_codes)),
    takes(Coding, at=5)(
        lambda acc, *rest: empty(acc, (code_bytes(acc.numel(), rest[-1].levels),), torch.uint8)
    ),
)
define(
    f"block_values({_AFFINE}, Tensor gate) -> Tensor",
    takes(Affine)(_check_values),
    lambda acc, *_: _images(acc),
)
define(
    f"block_means({_AFFINE}) -> Tensor",
    takes(Affine)(_check_affine),
    lambda acc, *_: empty(acc, tuple(acc.shape[:2]), torch.float32),
)
define(
    f"block_gradient_sums(Tensor grad, {_AFFINE}, {_CODING}, Tensor mean_grad) -> Tensor",
    _of_gradient(_check_gradient),
    lambda grad, acc, *_: _two_sums(acc),
)
define(
    f"block_gradient(Tensor grad, {_AFFINE}, {_CODING}, Tensor mean_grad, Tensor k,"
    " ScalarType dtype) -> Tensor",
    _of_gradient(_check_mapped_gradient),
    lambda grad, acc, *rest: _images(acc, rest[-1]),
)
# On the CPU alone, where making dz twice takes longer than keeping it: the sums of
# `block_gradient_sums` with what they are sums of, dz [N, C, H, W], float32; and from that, in its
# place, what `block_gradient` gives: dz * k[0] + (acc * k[1] + k[2]).
define(
    f"block_gradient_kept(Tensor grad, {_AFFINE}, {_CODING}, Tensor mean_grad) -> (Tensor, Tensor)",
    _of_gradient(_check_gradient),
    lambda grad, acc, *_: (_two_sums(acc), _images(acc)),
)
define(
    "norm_gradient_(Tensor(a!) dz, Tensor acc, Tensor k) -> ()",
    _check_norm_gradient,
    lambda *_: None,
)
define(
    f"block_gate_gradient(Tensor grad, {_AFFINE}, Tensor gate, {_CODING}) -> (Tensor, Tensor)",
    _of_gated_gradient(_check_gate_gradient),
    _of_gated_gradient(
        lambda grad, affine, gate, coding: (_images(affine.acc), torch.empty_like(gate))
    ),
)
define(
    f"block_step_sums(Tensor grad, {_AFFINE}, Tensor gate, {_CODING}) -> Tensor",
    _of_gated_gradient(_check_step_sums),
    lambda grad, acc, *_: _two_sums(acc),
)
