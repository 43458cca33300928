"""The numbers of a packed file as graphs of other programs want them: values ``scale * integer``.

The packed file multiplies sums by one factor for each output, of either sign; a graph gives each
operand a positive scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.artifact.format.document import INTEGER, SCALED, Layer
from micronet.artifact.format.nodes import Quantize
from micronet.artifact.reader import Packed, stored_scale_and_zero_point, weights_of
from micronet.utils.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Affine:
    """Codes 0 to ``levels - 1`` that mean ``scale * (code - zero_point)``.

    Attributes:
        levels: 2 to 256.
        scale: float32, positive and no denormal number: [1], or [O] of weights.
        zero_point: uint8, likewise.
    """

    levels: int
    scale: Array
    zero_point: Array

    @property
    def ends(self) -> tuple[np.float32, np.float32]:
        """The values of the lowest and of the highest code of one quantizer."""
        step, zero = np.float32(self.scale[0]), int(self.zero_point[0])
        return np.float32(-zero) * step, np.float32(self.levels - 1 - zero) * step

    def code_of(self, value: float) -> float:
        """The code of a value if there were no last one."""
        return float(np.rint(np.float32(value) / self.scale[0])) + int(self.zero_point[0])


@dataclass(frozen=True)
class Operands:
    """What a layer multiplies its input by, and what it adds.

    Attributes:
        weight: float32 values, or the codes of ``affine``, uint8; in the layer's shape.
        affine: None where weights are floats.
        bias: float32 [O], or None.
        input_levels: of the codes that it reads, None where it reads values.
    """

    weight: Array
    affine: Affine | None
    bias: Array | None
    input_levels: int | None

    @property
    def integers(self) -> Array:
        """Codes without their zero points, int16."""
        assert self.affine is not None
        zero = _along(self.affine.zero_point.astype(np.int16), self.weight)
        return np.asarray(self.weight.astype(np.int16) - zero)


def of_input(packed: Packed, node: Quantize) -> Affine:
    """Return how the values of a node are rounded.

    Raises:
        UserError: the step between two of its values is none of float32's normal numbers.
    """
    scale, zero_point = stored_scale_and_zero_point(node, packed.contents.tensors)
    with np.errstate(over="ignore", under="ignore"):
        step = np.array([np.float32(1) / np.float32(scale)], np.float32)
    _check(step, f"quantizer {node.name!r}", packed)
    return Affine(node.levels, step, np.array([zero_point], np.uint8))


def of_layer(packed: Packed, name: str, source: Affine | None) -> Operands:
    """Return what a layer computes with.

    A factor below 0, as of a normalization that turns signs, turns those of the codes; one of 0
    makes all of them zero points.

    Args:
        packed: the file.
        name: of the layer.
        source: how its input is rounded, None where it reads values.

    Raises:
        UserError: a scale is none of float32's normal numbers.
    """
    layer, tensors = packed.document.layers[name], packed.contents.tensors
    stored = weights_of(name, layer, tensors)
    bias = tensors.get(f"{name}.bias")
    levels = None if source is None else source.levels
    if stored.codes is None:
        norm = tensors.get(f"{name}.norm_scale")
        values = stored.values.numpy()
        weight = values if norm is None else values * _along(norm, values)
        return Operands(weight.astype(np.float32), None, bias, levels)
    assert stored.zero_point is not None and layer.levels is not None
    factor = _factor(layer, name, packed, source)
    codes, zero = stored.codes.numpy(), stored.zero_point.numpy().astype(np.uint8)
    wide = _along(factor, codes)
    top = np.uint8(layer.levels - 1)
    codes = np.where(wide < 0, top - codes, np.where(wide == 0, _along(zero, codes), codes))
    zero = np.where(factor < 0, top - zero, zero).astype(np.uint8)
    with np.errstate(over="ignore"):
        scale = np.where(factor == 0, 1.0, abs(factor)).astype(np.float32)
    _check(scale, f"layer {name!r}", packed)
    return Operands(codes.astype(np.uint8), Affine(layer.levels, scale, zero), bias, levels)


def _factor(layer: Layer, name: str, packed: Packed, source: Affine | None) -> Array:
    """Return the value of one step of the weights of each output, float64, of either sign."""
    tensors = packed.contents.tensors
    scale = tensors[f"{name}.weight_scale"].astype(np.float64)
    if layer.sums == INTEGER:
        assert source is not None
        return np.asarray(scale / source.scale.astype(np.float64))
    if layer.sums == SCALED:
        return scale
    norm = tensors.get(f"{name}.norm_scale")
    return np.asarray((1.0 if norm is None else norm.astype(np.float64)) / scale)


def _along(values: Array, weight: Array) -> Array:
    """Return one value for each output in the shape that multiplies weights."""
    return values.reshape(-1, *(1,) * (weight.ndim - 1))


def _check(scale: Array, whose: str, packed: Packed) -> None:
    if not (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all():
        bad = scale[~(np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny))][0]
        raise UserError(
            f"{str(packed.path)!r} cannot be written as ONNX: {whose} has steps of {bad:g}, which "
            "are no normal float32 numbers"
        )
