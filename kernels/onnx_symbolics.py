"""The quantizers as ordinary ONNX operators, for torch.onnx.export of a converted network.

Each is the definition of docs and reference, operation by operation in float32; ONNX's Round goes
to the even neighbor as well. Weights are computed when the exported network runs, from the stored
ones and their mask.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic, symbolic_helper

from .scheme import Scheme

# BitShift and Clip with tensors as ends came with this one.
_OPSET = 11


def _number(g: Any, value: float) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=torch.float32))


def _whole(g: Any, *values: int) -> Any:
    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))


def _rounded(g: Any, x: Any, scale: Any, zero: Any, least: int, most: int) -> Any:
    """(clamp(rint(scale * x - zero), least, most) + zero) / scale."""
    whole = g.op("Round", g.op("Sub", g.op("Mul", scale, x), zero))
    code = g.op("Clip", whole, _number(g, float(least)), _number(g, float(most)))
    return g.op("Div", g.op("Add", code, zero), scale)


def _by_range(g: Any, x: Any, low: Any, high: Any, levels: int, scheme: int) -> Any:
    if scheme == Scheme.SYMMETRIC:
        n = (levels - 1) // 2
        scale = _scale(g, g.op("Max", g.op("Abs", low), g.op("Abs", high)), n)
        return _rounded(g, x, scale, _number(g, 0.0), -n, n)
    if scheme != Scheme.AFFINE:
        raise ValueError(f"scheme {Scheme(scheme).name} has no form in ONNX here")
    low, high = g.op("Min", low, _number(g, 0.0)), g.op("Max", high, _number(g, 0.0))
    scale = _scale(g, g.op("Sub", high, low), levels - 1)
    zero = g.op("Round", g.op("Mul", scale, low))
    return _rounded(g, x, scale, zero, 0, levels - 1)


def _scale(g: Any, width: Any, n: int) -> Any:
    """n over a width, or 1 where that is none."""
    whole = _number(g, float(n))
    is_none = g.op("Equal", width, _number(g, 0.0))
    return g.op("Div", whole, g.op("Where", is_none, whole, width))


@symbolic_helper.parse_args("v", "v", "i", "i")
def _fake_quant_per_tensor(g: Any, x: Any, range: Any, levels: int, scheme: int) -> Any:
    low, high = (g.op("Gather", range, _whole(g, end), axis_i=0) for end in (0, 1))
    # The bits of the gradient have no reader in an exported network.
    return _by_range(g, x, low, high, levels, scheme), _number(g, 0.0)


@symbolic_helper.parse_args("v", "v", "i", "i")
def _fake_quant_per_channel(g: Any, w: Any, mask: Any, levels: int, scheme: int) -> Any:
    size = w.type().sizes()
    kept = _masked(g, w, mask, size)
    rows = g.op("Reshape", kept, _whole(g, size[0], -1))
    low, high = (g.op(name, rows, axes_i=[1], keepdims_i=1) for name in ("ReduceMin", "ReduceMax"))
    values = g.op("Reshape", _by_range(g, rows, low, high, levels, scheme), _whole(g, *size))
    return values, _number(g, 0.0), _number(g, 0.0)


@symbolic_helper.parse_args("v", "v", "v", "v", "i", "f")
def _fake_quant_learned_step(
    g: Any, x: Any, mask: Any, step: Any, zero: Any, levels: int, gradient_scale: float
) -> Any:
    size = x.type().sizes()
    kept = _masked(g, x, mask, size)
    if step.type().sizes() != [1]:
        axes = _whole(g, -1, *(1 for _ in size[1:]))
        step, zero = (g.op("Reshape", t, axes) for t in (step, zero))
    inverse = g.op("Div", _number(g, 1.0), step)
    return _rounded(g, kept, inverse, zero, 0, levels - 1)


def _masked(g: Any, w: Any, mask: Any, size: list[int]) -> Any:
    """w where the packed bits of a mask, low bit first, say 1; an empty mask keeps all."""
    if mask.type().sizes() == [0]:
        return w
    place = torch.arange(math.prod(size))
    octets = g.op("Gather", mask, g.op("Constant", value_t=place // 8), axis_i=0)
    shift = g.op("Constant", value_t=(place % 8).to(torch.uint8))
    two = g.op("Constant", value_t=torch.tensor(2, dtype=torch.uint8))
    bits = g.op("Mod", g.op("BitShift", octets, shift, direction_s="RIGHT"), two)
    flags = g.op("Cast", bits, to_i=torch.onnx.TensorProtoDataType.BOOL)
    keeps = g.op("Reshape", flags, _whole(g, *size))
    return g.op("Where", keeps, w, _number(g, 0.0))


def register() -> None:
    """Tell torch.onnx what the operators of quantizers are in ONNX."""
    symbolics: dict[str, Any] = {
        "fake_quant_per_tensor": _fake_quant_per_tensor,
        "fake_quant_per_channel": _fake_quant_per_channel,
        "fake_quant_learned_step": _fake_quant_learned_step,
    }
    for name, symbolic in symbolics.items():
        register_custom_op_symbolic(f"micronet::{name}", symbolic, _OPSET)
