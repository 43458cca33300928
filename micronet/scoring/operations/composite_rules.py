"""Operators that are several steps, each of which is recorded as what it is alone.

Attention is two products of matrices around a softmax, and a variance is two means around a square:
in one piece they cost what they do spelled out.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from micronet.scoring.operations import tensor_axes
from micronet.scoring.operations.operator_rules import Call, Rule, refuse
from micronet.scoring.operations.records import (
    Activation,
    LayerNorm,
    Pool,
    Residual,
    Scale,
)
from micronet.scoring.operations.trace import Trace

# Powers that are one step, or a product with a square.
_POWERS = {2.0: ("square",), 3.0: ("square", "product"), 0.5: ("sqrt",), -0.5: ("rsqrt",)}


def spelled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Compute ``softmax(query key^T scale) value`` by functions that are recorded one by one.

    torch's own way depends on the device; the one for tensors without memory scales key and query
    by the root of the factor each, though scaling one by all of it is enough.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query if factor == 1 else query * factor) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.zeros(scores.shape[-2:], device=scores.device)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _group_norm(trace: Trace, call: Call) -> None:
    numel, groups = call.out[0].numel(), call.args["N"] * call.args["group"]
    affine = call.args.get("weight") is not None
    trace.ops.append(LayerNorm(trace.where, trace.each(numel), trace.each(groups), affine))


def _rms_norm(trace: Trace, call: Call) -> None:
    """Squares, their mean, the inverse of its root, and a product."""
    numel = trace.each(call.out[0].numel())
    groups = numel // prod(call.args["normalized_shape"])
    where = trace.where
    trace.ops += [
        Activation(where, "square", numel),
        Pool(where, "average", numel, groups, numel),
        Residual(where, groups),
        Activation(where, "rsqrt", groups),
        Scale(where, numel),
    ]
    if call.args.get("weight") is not None:
        trace.ops.append(Scale(where, numel))


def _variance(trace: Trace, call: Call) -> None:
    """A mean, the differences to it, and the mean of their squares; of a deviation its root."""
    source: Tensor = call.args["self"]
    numel, groups = trace.each(source.numel()), trace.each(call.out[0].numel())
    mean = Pool(trace.where, "average", numel, groups, numel)
    square = Activation(trace.where, "square", numel)
    trace.ops += [mean, Residual(trace.where, numel), square, mean]
    if call.operator.startswith("std"):
        trace.ops.append(Activation(trace.where, "sqrt", groups))
    _reduced(trace, call)


def _sum(trace: Trace, call: Call) -> None:
    numel, groups = trace.each(call.args["self"].numel()), trace.each(call.out[0].numel())
    trace.ops.append(Pool(trace.where, "sum", numel, groups, numel))
    _reduced(trace, call)


def _length(trace: Trace, call: Call) -> None:
    """The root of the sum of squares."""
    if call.args.get("ord", 2) != 2:
        refuse(trace)
    numel, groups = trace.each(call.args["self"].numel()), trace.each(call.out[0].numel())
    trace.ops += [
        Activation(trace.where, "square", numel),
        Pool(trace.where, "sum", numel, groups, numel),
        Activation(trace.where, "sqrt", groups),
    ]
    _reduced(trace, call)


def _reduced(trace: Trace, call: Call) -> None:
    """Note the axes that are left of the one that was reduced."""
    source: Tensor = call.args["self"]
    over = call.args.get("dim")
    over = range(source.dim()) if over is None or over == [] else over
    dims = [d % source.dim() for d in ([over] if isinstance(over, int) else over)]
    found = tensor_axes.reduce(trace.axes(source), dims, call.args.get("keepdim", False))
    trace.set_axes(call.out, [found] * len(call.out))


def _overlapped(trace: Trace, call: Call) -> None:
    """``col2im``: patches are added where they overlap."""
    numel, outputs = trace.each(call.args["self"].numel()), trace.each(call.out[0].numel())
    trace.ops.append(Pool(trace.where, "sum", numel, outputs, numel))


def _power(trace: Trace, call: Call) -> None:
    exponent: Any = call.args["exponent"]
    steps = None if isinstance(exponent, Tensor) else _POWERS.get(float(exponent))
    if steps is None:
        refuse(trace)
        return
    numel = trace.each(call.out[0].numel())
    for step in steps:
        product = Scale(trace.where, numel)
        trace.ops.append(product if step == "product" else Activation(trace.where, step, numel))


def _gated(trace: Trace, call: Call) -> None:
    """Half of the channels times the sigmoid of the others."""
    numel = trace.each(call.out[0].numel())
    trace.ops += [Activation(trace.where, "sigmoid", numel), Scale(trace.where, numel)]


def _scaled_addition(trace: Trace, call: Call) -> None:
    """``addcmul``: a product, one with a factor where it has one, and an addition."""
    numel = trace.each(call.out[0].numel())
    products = 1 if call.args.get("value", 1) == 1 else 2
    trace.ops += [Scale(trace.where, numel)] * products + [Residual(trace.where, numel)]


COMPOSITES: dict[str, Rule] = {
    "native_group_norm": _group_norm,
    "_fused_rms_norm": _rms_norm,
    **dict.fromkeys(["var", "std", "var_mean", "std_mean"], _variance),
    "sum": _sum,
    "linalg_vector_norm": _length,
    "col2im": _overlapped,
    "pow": _power,
    "glu": _gated,
    "addcmul": _scaled_addition,
}
# Of these the results' elements stand where those of their arguments do.
ELEMENTWISE = frozenset(["native_group_norm", "_fused_rms_norm", "pow", "addcmul"])
