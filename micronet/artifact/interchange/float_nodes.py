"""Nodes of floats: each kind of the packed file's graph as operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from micronet.artifact.format.nodes import (
    Activation,
    Add,
    Concat,
    Gate,
    Node,
    Pad,
    Pool,
    Reshape,
    Slice,
    kind_of,
)
from micronet.artifact.interchange.graph import Graph

# All of them were there with HardSwish, in operator set 14.
_ONE: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "hardswish": ("HardSwish", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}


def add(graph: Graph, node: Node, inputs: Sequence[str]) -> str:
    """Add a node that reads values and gives values, and return its output's name.

    Args:
        graph: that grows.
        node: no layer and no quantizer.
        inputs: names of the values that it reads.
    """
    return _ADDERS[type(node)](graph, node, inputs)


def _activation(graph: Graph, node: Activation, inputs: Sequence[str]) -> str:
    (x,), name = inputs, node.function
    if name == "relu6":
        ends = [graph.constant(f"{name}.{end}", end) for end in (0, 6)]
        return graph.add("Clip", [x, *ends], name)
    if name == "swish":
        return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}.sigmoid")], name)
    op, attributes = _ONE[name]
    return graph.add(op, [x], name, **attributes)


def _pool(graph: Graph, node: Pool, inputs: Sequence[str]) -> str:
    if node.function == "mean":
        return graph.add("GlobalAveragePool", inputs, "mean")
    assert node.kernel and node.stride and node.padding and node.dilation
    return graph.add(
        "MaxPool",
        inputs,
        "max",
        kernel_shape=node.kernel,
        strides=node.stride,
        pads=(*node.padding, *node.padding),
        dilations=node.dilation,
    )


def _concat(graph: Graph, node: Concat, inputs: Sequence[str]) -> str:
    return graph.add("Concat", inputs, "concat", axis=1)


def _reshape(graph: Graph, node: Reshape, inputs: Sequence[str]) -> str:
    # 0 is the batch, as many as there are.
    return graph.add(
        "Reshape", [*inputs, graph.whole("reshape.shape", (0, *node.shape))], "reshape"
    )


def _slice(graph: Graph, node: Slice, inputs: Sequence[str]) -> str:
    parts = node.start, node.stop, range(1, len(node.start) + 1), node.step
    names = "starts", "ends", "axes", "steps"
    constants = [
        graph.whole(f"slice.{name}", [*part]) for name, part in zip(names, parts, strict=True)
    ]
    return graph.add("Slice", [*inputs, *constants], "slice")


def _pad(graph: Graph, node: Pad, inputs: Sequence[str]) -> str:
    pads = graph.whole("pad.pads", (0, *node.before, 0, *node.after))
    return graph.add("Pad", [*inputs, pads], "pad")


def _plain(op: str) -> Callable[[Graph, Any, Sequence[str]], str]:
    def added(graph: Graph, node: Node, inputs: Sequence[str]) -> str:
        return graph.add(op, inputs, kind_of(node))

    return added


_ADDERS: dict[type, Callable[[Graph, Any, Sequence[str]], str]] = {
    Activation: _activation,
    Pool: _pool,
    Gate: _plain("Mul"),
    Add: _plain("Add"),
    Concat: _concat,
    Reshape: _reshape,
    Slice: _slice,
    Pad: _pad,
}
