"""Whether a graph can be computed: order, shapes, precisions, names; nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import micronet_kernels as kernels
from micronet.artifact.format.document import FLOAT, INTEGER, Document, Layer
from micronet.artifact.format.geometry import MOST_SIZE, TopologyError, check_geometry
from micronet.artifact.format.nodes import (
    CODES,
    FUNCTIONS,
    INEXACT,
    Activation,
    Add,
    Concat,
    Conv,
    Gate,
    Input,
    Linear,
    Node,
    Pad,
    Pixels,
    Pool,
    Quantize,
    Reshape,
    Slice,
    Table,
    kind_of,
)
from micronet.utils.errors import UserError

_MOST_VALUES = 2**31 - 1


@dataclass(frozen=True)
class Signal:
    """What a node gives: the shape of one image's values, of codes their levels, and which."""

    shape: tuple[int, ...]
    levels: int | None = None
    is_grey: bool = False


def signals(document: Document, where: str) -> list[Signal]:
    """Return what every node gives.

    Args:
        document: whose layers have been looked at.
        where: it comes from, for messages.

    Raises:
        UserError: a node reads one that comes later, or what it cannot take; a layer or node is
            read by none; the output is no values.
    """
    found: list[Signal] = []
    for index, node in enumerate(document.nodes):
        try:
            found.append(_signal(document, index, node, found))
        except TopologyError as error:
            raise UserError(f"{where}: nodes[{index}] ({kind_of(node)}): {error}") from None
    _check_ends(document, found, where)
    return found


def _signal(document: Document, index: int, node: Node, before: Sequence[Signal]) -> Signal:
    inputs: Sequence[int] = getattr(node, "inputs", ())
    if (index == 0) != isinstance(node, Input):
        raise TopologyError("the first node, and it alone, is the image")
    late = [i for i in inputs if not 0 <= i < index]
    if late:
        raise TopologyError(f"reads node {late[0]}, which does not come before it")
    takes = _TAKES.get(type(node), 1)
    if takes is not None and len(inputs) != takes:
        raise TopologyError(f"reads {len(inputs)} nodes, but must read {takes}")
    if any(before[i].is_grey for i in inputs) and not isinstance(node, Conv):
        raise TopologyError("reads grey values, which only a convolution of integer sums takes")
    signal = _RULES[type(node)](document, node, [before[i] for i in inputs])
    sizes = signal.shape
    if not 1 <= len(sizes) <= 4 or not all(0 < n <= _MOST_VALUES for n in sizes):
        raise TopologyError(f"would have the shape {list(sizes)}")
    if prod(sizes) > _MOST_VALUES:
        raise TopologyError(f"would have {prod(sizes)} values")
    return signal


_TAKES: dict[type, int | None] = {Input: 0, Gate: 2, Add: 2, Concat: None}


def _check_ends(document: Document, found: Sequence[Signal], where: str) -> None:
    if not 0 <= document.output < len(found):
        raise UserError(f"{where}: output is node {document.output}, which there is not")
    read = {i for node in document.nodes for i in getattr(node, "inputs", ())} | {document.output}
    unread = [i for i in range(len(found)) if i not in read]
    if found[document.output].is_grey:
        raise UserError(f"{where}: output is node {document.output}, which gives grey values")
    if unread:
        raise UserError(f"{where}: nodes[{unread[0]}] is read by none")
    called = {node.layer for node in document.nodes if isinstance(node, (Conv, Linear))}
    if idle := sorted(document.layers.keys() - called):
        raise UserError(f"{where}: layer {idle[0]!r} is called by no node")
    names = [n.name for n in document.nodes if isinstance(n, CODES)]
    if len(set(names)) < len(names):
        raise UserError(f"{where}: two quantizers have one name")


def _input(document: Document, node: Input, inputs: Sequence[Signal]) -> Signal:
    if len(document.input) != 3 or not all(0 < n <= MOST_SIZE for n in document.input):
        raise TopologyError(f"an image has three sizes up to {MOST_SIZE}, not {document.input}")
    return Signal(document.input)


def _quantize(document: Document, node: Quantize, inputs: Sequence[Signal]) -> Signal:
    _check_levels(node.levels)
    if inputs[0].levels is not None:
        raise TopologyError("reads codes, which a table turns into others")
    return Signal(inputs[0].shape, node.levels)


def _table(document: Document, node: Table, inputs: Sequence[Signal]) -> Signal:
    _check_levels(node.levels)
    if inputs[0].levels is None:
        raise TopologyError("reads values, but a table has an entry for each code")
    return Signal(inputs[0].shape, node.levels)


def _pixels(document: Document, node: Pixels, inputs: Sequence[Signal]) -> Signal:
    shape = inputs[0].shape
    if node.inputs != (0,) or len(node.mean) != shape[0]:
        raise TopologyError(f"must read the image, and have a mean for each of {shape[0]} channels")
    return Signal(shape, node.levels, is_grey=True)


def _check_levels(levels: int) -> None:
    if not 2 <= levels <= 256:
        raise TopologyError(f"has {levels} levels, but must have 2 to 256")


def _layer(document: Document, name: str, x: Signal, axes: int) -> Layer:
    layer = document.layers.get(name)
    if layer is None:
        raise TopologyError(f"calls layer {name!r}, which there is not")
    if len(layer.shape) != axes:
        raise TopologyError(f"calls layer {name!r}, whose weights have {len(layer.shape)} axes")
    if layer.sums == INTEGER:
        _check_integer(layer, name, x)
    elif x.is_grey:
        raise TopologyError(f"gives grey values to layer {name!r}, whose sums are no integers")
    elif layer.sums != FLOAT and x.levels is not None:
        raise TopologyError(f"gives codes to layer {name!r}, which sums floats by integer weights")
    return layer


def _check_integer(layer: Layer, name: str, x: Signal) -> None:
    if x.levels is None or layer.levels is None:
        raise TopologyError(f"layer {name!r} sums integers, but an operand is none")
    if not kernels.fits_32_bits(layer.depth, x.levels, layer.levels):
        raise TopologyError(f"sums of layer {name!r} need more than 32 bits")


def _conv(document: Document, node: Conv, inputs: Sequence[Signal]) -> Signal:
    x = inputs[0]
    layer = _layer(document, node.layer, x, 4)
    assert layer.stride and layer.padding and layer.dilation and layer.groups
    if len(x.shape) != 3 or x.shape[0] != layer.shape[1] * layer.groups:
        raise TopologyError(f"layer {node.layer!r} does not take a signal of {list(x.shape)}")
    size = _windows(x.shape[1:], layer.shape[2:], layer.stride, layer.padding, layer.dilation)
    return Signal((layer.shape[0], *size))


def _windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    top, left, bottom, right = padding
    wide = size[0] + top + bottom, size[1] + left + right
    sizes = zip(wide, kernel, stride, dilation, strict=True)
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes)


def _linear(document: Document, node: Linear, inputs: Sequence[Signal]) -> Signal:
    layer = _layer(document, node.layer, inputs[0], 2)
    if inputs[0].shape != layer.shape[1:]:
        raise TopologyError(
            f"layer {node.layer!r} does not take a signal of {list(inputs[0].shape)}"
        )
    return Signal(layer.shape[:1])


def _activation(document: Document, node: Activation, inputs: Sequence[Signal]) -> Signal:
    if node.function not in FUNCTIONS:
        raise TopologyError(f"function is {node.function!r}, which is none of {FUNCTIONS}")
    if not node.exact and node.function not in INEXACT:
        raise TopologyError(f"{node.function} is exact on every machine")
    return Signal(inputs[0].shape)


def _pool(document: Document, node: Pool, inputs: Sequence[Signal]) -> Signal:
    shape = inputs[0].shape
    if len(shape) != 3:
        raise TopologyError(f"pools a signal of {list(shape)}, but must pool [C, H, W]")
    geometry = node.kernel, node.stride, node.padding, node.dilation
    if node.function == "mean":
        if any(numbers is not None for numbers in geometry):
            raise TopologyError("a mean is of all positions, without a kernel")
        return Signal((shape[0], 1, 1))
    if node.function != "max" or not node.exact:
        raise TopologyError(f"function is {node.function!r}, but must be 'mean' or an exact 'max'")
    kernel, stride, padding, dilation = check_geometry(*geometry)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise TopologyError(f"padding {list(padding)} is more than half of {list(kernel)}")
    return Signal((shape[0], *_windows(shape[1:], kernel, stride, padding * 2, dilation)))


def _gate(document: Document, node: Gate, inputs: Sequence[Signal]) -> Signal:
    shape, factors = (signal.shape for signal in inputs)
    if factors not in (shape, (shape[0], *(1,) * (len(shape) - 1))):
        raise TopologyError(f"multiplies {list(shape)} by {list(factors)}")
    return Signal(shape)


def _add(document: Document, node: Add, inputs: Sequence[Signal]) -> Signal:
    if inputs[0].shape != inputs[1].shape:
        raise TopologyError(f"adds {list(inputs[0].shape)} and {list(inputs[1].shape)}")
    return Signal(inputs[0].shape)


def _concat(document: Document, node: Concat, inputs: Sequence[Signal]) -> Signal:
    rests = {signal.shape[1:] for signal in inputs}
    if len(rests) != 1:
        raise TopologyError("signals differ behind their first axis")
    return Signal((sum(signal.shape[0] for signal in inputs), *rests.pop()))


def _reshape(document: Document, node: Reshape, inputs: Sequence[Signal]) -> Signal:
    if prod(node.shape) != prod(inputs[0].shape) or not all(n > 0 for n in node.shape):
        raise TopologyError(f"{list(inputs[0].shape)} cannot have the shape {list(node.shape)}")
    return Signal(node.shape)


def _slice(document: Document, node: Slice, inputs: Sequence[Signal]) -> Signal:
    shape = inputs[0].shape
    if not len(shape) == len(node.start) == len(node.stop) == len(node.step):
        raise TopologyError(f"start, stop and step have not the {len(shape)} axes of the signal")
    ends = list(zip(shape, node.start, node.stop, node.step, strict=True))
    if not all(0 <= a < b <= n and s > 0 for n, a, b, s in ends):
        raise TopologyError(f"a part lies outside of {list(shape)}")
    return Signal(tuple(-(-(b - a) // s) for _, a, b, s in ends))


def _pad(document: Document, node: Pad, inputs: Sequence[Signal]) -> Signal:
    shape = inputs[0].shape
    if not len(shape) == len(node.before) == len(node.after):
        raise TopologyError(f"before and after have not the {len(shape)} axes of the signal")
    if not all(0 <= n <= MOST_SIZE for n in (*node.before, *node.after)):
        raise TopologyError("pads by less than 0 or by too many")
    return Signal(tuple(map(sum, zip(shape, node.before, node.after, strict=True))))


_Rule = Callable[[Document, Any, Sequence[Signal]], Signal]
_RULES: dict[type, _Rule] = {
    Input: _input,
    Quantize: _quantize,
    Table: _table,
    Pixels: _pixels,
    Conv: _conv,
    Linear: _linear,
    Activation: _activation,
    Pool: _pool,
    Gate: _gate,
    Add: _add,
    Concat: _concat,
    Reshape: _reshape,
    Slice: _slice,
    Pad: _pad,
}
