"""How a graph says that values are rounded: pairs of QDQ in 4 or 8 bits, or QONNX's Quant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from micronet.artifact.interchange.graph import FLOAT, INT4, INT8, UINT4, UINT8, Graph
from micronet.artifact.interchange.operands import Affine, Operands

_NIBBLE_LEVELS, _BYTE_LEVELS = 16, 256
_QONNX = "qonnx.custom_op.general"


class Dialect(Protocol):
    """What the formats of graphs differ in.

    Attributes:
        opsets: version of each set of operators.
    """

    opsets: Mapping[str, int]

    def rounded(self, graph: Graph, name: str, x: str, affine: Affine) -> str:
        """Add what rounds the values ``x``; return the name of the rounded ones."""

    def weight(self, graph: Graph, name: str, operands: Operands) -> str:
        """Add weights of levels; return the name of their values."""


class Qdq:
    """QuantizeLinear and DequantizeLinear, as engines look for them.

    A type has room for more codes than there are levels. Codes of a byte are clipped as codes, so
    that a layer between two pairs stays one of integers. ONNX clips none of four bits: there the
    values are clipped before, at that of the highest code.

    Args:
        nibbles: whether up to 16 levels take 4 bits, which came with operator set 21.
    """

    def __init__(self, nibbles: bool) -> None:
        self._nibbles = nibbles
        self.opsets: Mapping[str, int] = {"": 21 if nibbles else 14}

    def rounded(self, graph: Graph, name: str, x: str, affine: Affine) -> str:
        """Add a pair, and a Clip where the type has codes that are none of the levels."""
        is_nibble = self._nibbles and affine.levels <= _NIBBLE_LEVELS
        kind, most = (UINT4, _NIBBLE_LEVELS) if is_nibble else (UINT8, _BYTE_LEVELS)
        scale = graph.constant(f"{name}.scale", affine.scale[0])
        grid = [scale, graph.constant(f"{name}.zero_point", affine.zero_point[0], kind)]
        if is_nibble:
            top = graph.constant(f"{name}.top", affine.ends[1])
            x = graph.add("Min", [x, top], f"{name}.clipped")
        codes = graph.add("QuantizeLinear", [x, *grid], f"{name}.codes")
        if not is_nibble and affine.levels < most:
            ends = _ends(graph, name, (0, affine.levels - 1), kind)
            codes = graph.add("Clip", [codes, *ends], f"{name}.clipped")
        return graph.add("DequantizeLinear", [codes, *grid], name)

    def weight(self, graph: Graph, name: str, operands: Operands) -> str:
        """Add signed integers where these fit the type, else codes and the zero points of each."""
        affine = operands.affine
        assert affine is not None
        nibbles = self._nibbles and affine.levels <= _NIBBLE_LEVELS
        signed, unsigned, half = (INT4, UINT4, 8) if nibbles else (INT8, UINT8, 128)
        integers, kind = operands.integers, signed
        zero_point: NDArray[Any] = np.zeros_like(affine.zero_point)
        if integers.size and not -half <= integers.min() <= integers.max() < half:
            integers, kind, zero_point = operands.weight, unsigned, affine.zero_point
        scale = affine.scale
        if kind == INT8:
            integers, scale = _widened(operands, integers, scale)
        inputs = [
            graph.constant(f"{name}.codes", integers, kind),
            graph.constant(f"{name}.scale", scale),
            graph.constant(f"{name}.zero_point", zero_point, kind),
        ]
        return graph.add("DequantizeLinear", inputs, name, axis=0)


def _widened(
    operands: Operands, integers: NDArray[Any], scale: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Multiply the integers of each output by a power of two, and divide its scale: values stay.

    Engines round a bias to a multiple of both scales, the step of the sums. A finer step errs less.
    The largest integer keeps to 8 bits, two products to 16 bits, where some engines add them, and
    the sums to 32.
    """
    rows = abs(integers.reshape(len(integers), -1))
    if operands.input_levels is None or not rows.size:
        return integers, scale
    most = operands.input_levels - 1
    room = min(127, 32767 // (2 * most), (2**31 - 1) // (most * rows.shape[1]))
    exponent = np.floor(np.log2(np.maximum(room / np.maximum(rows.max(1), 1), 1)))
    exponent[scale / 2**exponent < np.finfo(np.float32).tiny] = 0
    wide = (2**exponent).astype(np.int16).reshape(-1, *(1,) * (integers.ndim - 1))
    return integers * wide, (scale / 2**exponent).astype(np.float32)


class Qonnx:
    """``Quant``: values in, rounded values out.

    Its bits are whole numbers, so that values of levels that are no power of two are clipped before
    at that of the highest code. Weights lie on their levels already and need no clipping.
    """

    opsets: Mapping[str, int] = {"": 14, _QONNX: 1}

    def rounded(self, graph: Graph, name: str, x: str, affine: Affine) -> str:
        """Add a Quant of codes without a sign."""
        if affine.levels < 2 ** _bits(affine):
            ends = _ends(graph, name, affine.ends, FLOAT)
            x = graph.add("Clip", [x, *ends], f"{name}.clipped")
        return _quant(graph, name, x, affine, (), affine.zero_point, signed=0)

    def weight(self, graph: Graph, name: str, operands: Operands) -> str:
        """Add a Quant of float weights, signed and without zero points where its bits allow it."""
        affine, integers = operands.affine, operands.integers
        assert affine is not None
        shape = (-1, *(1,) * (integers.ndim - 1))
        values = integers.astype(np.float32) * affine.scale.reshape(shape)
        x = graph.constant(f"{name}.values", values + np.float32(0))
        half = 2 ** (_bits(affine) - 1)
        # A signed bit alone means -1 and 1 to those who read it.
        if half > 1 and integers.size and -half < integers.min() <= integers.max() < half:
            zero_point = np.zeros_like(affine.zero_point)
            return _quant(graph, name, x, affine, shape, zero_point, signed=1, narrow=1)
        return _quant(graph, name, x, affine, shape, affine.zero_point, signed=0)


def _quant(
    graph: Graph,
    name: str,
    x: str,
    affine: Affine,
    shape: tuple[int, ...],
    zero_point: NDArray[Any],
    *,
    signed: int,
    narrow: int = 0,
) -> str:
    grid = [
        graph.constant(f"{name}.scale", affine.scale.reshape(shape)),
        graph.constant(f"{name}.zero_point", zero_point.reshape(shape)),
        graph.constant(f"{name}.bits", _bits(affine)),
    ]
    mode = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
    return graph.add("Quant", [x, *grid], name, domain=_QONNX, **mode)


def _bits(affine: Affine) -> int:
    return (affine.levels - 1).bit_length()


def _ends(graph: Graph, name: str, ends: Sequence[Any], kind: int) -> list[str]:
    """Add both ends of a Clip: some tools know of no input that is left out."""
    words = "bottom", "top"
    return [
        graph.constant(f"{name}.{word}", end, kind) for word, end in zip(words, ends, strict=True)
    ]
