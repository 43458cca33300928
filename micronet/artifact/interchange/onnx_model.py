"""From a packed file to an ONNX model: its graph, in one of the dialects of quantized values."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx

from micronet.artifact.format.document import Layer
from micronet.artifact.format.nodes import (
    Activation,
    Conv,
    Input,
    Linear,
    Node,
    Pixels,
    Quantize,
    Table,
)
from micronet.artifact.format.topology import signals
from micronet.artifact.interchange import float_nodes, operands
from micronet.artifact.interchange.dialects import Dialect, Qdq, Qonnx
from micronet.artifact.interchange.graph import Graph
from micronet.artifact.interchange.operands import Affine
from micronet.artifact.reader import Packed
from micronet.recipe.strict import to_plain
from micronet.utils.errors import UserError

_IMAGES, _SIX = "images", 6.0


def to_bytes(packed: Packed, *, qonnx: bool = False, int8: bool = False) -> bytes:
    """Return the bytes of a model, the same ones for the same file.

    Its input ``images`` is [N, C, H, W], of any N; its output ``output`` has N in front too.

    Args:
        packed: the network.
        qonnx: with nodes ``Quant`` of QONNX, else with pairs of QuantizeLinear and
            DequantizeLinear.
        int8: of these, 8-bit types alone; else levels up to 16 take 4 bits.

    Raises:
        UserError: the file has a node or a step that the format has not.
    """
    dialect: Dialect = Qonnx() if qonnx else Qdq(nibbles=not int8)
    model = _Writer(packed, dialect).model()
    # Shapes and types of QONNX's operators are known to its own tools only.
    onnx.checker.check_model(model, full_check=not qonnx)
    return bytes(model.SerializeToString(deterministic=True))


class _Writer:
    """Adds the nodes of a packed file, one after the other."""

    def __init__(self, packed: Packed, dialect: Dialect) -> None:
        self._packed, self._dialect, self._graph = packed, dialect, Graph()
        self._inputs: dict[str, Affine] = {}
        # Of a layer that is called twice the constants are there once.
        self._constants: dict[str, list[str]] = {}
        # The values of the file's nodes.
        self._names: list[str] = []

    def model(self) -> onnx.ModelProto:
        """Return the model of all nodes."""
        document, names = self._packed.document, self._names
        for index, node in enumerate(document.nodes):
            inputs = [names[i] for i in getattr(node, "inputs", ())]
            names.append(self._added(self._simpler(index, node), inputs))
        shape = signals(document, repr(str(self._packed.path)))[document.output].shape
        ends = (names[0], document.input), (names[document.output], shape)
        return self._graph.model(ends, self._dialect.opsets, self._metadata())

    def _metadata(self) -> dict[str, str]:
        about = {k: v for k, v in to_plain(self._packed.document.about).items() if v is not None}
        texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
        return dict(sorted(texts.items())) | {"packed_sha256": self._packed.sha256}

    def _simpler(self, index: int, node: Node) -> Node:
        """Return a relu where quantizers cut off all that a relu6 does.

        Engines take a relu into an integer convolution, but no clip at another value than the last.
        """
        if not (isinstance(node, Activation) and node.function == "relu6"):
            return node
        document = self._packed.document
        readers = [n for n in document.nodes if index in getattr(n, "inputs", ())]
        is_cut = index != document.output and all(
            isinstance(reader, Quantize)
            and operands.of_input(self._packed, reader).code_of(_SIX) >= reader.levels - 1
            for reader in readers
        )
        return dataclasses.replace(node, function="relu") if is_cut else node

    def _added(self, node: Node, inputs: list[str]) -> str:
        if isinstance(node, Input):
            return self._graph.reserve(_IMAGES)
        if isinstance(node, (Table, Pixels)):
            what = "is a table of codes" if isinstance(node, Table) else "reads grey values"
            raise UserError(
                f"{str(self._packed.path)!r} cannot be written as ONNX: {node.name!r} {what}"
            )
        if isinstance(node, Quantize):
            self._inputs[node.name] = operands.of_input(self._packed, node)
            return self._dialect.rounded(self._graph, node.name, inputs[0], self._inputs[node.name])
        if isinstance(node, (Conv, Linear)):
            return self._layer(node, inputs)
        return float_nodes.add(self._graph, node, inputs)

    def _layer(self, node: Conv | Linear, inputs: list[str]) -> str:
        name, document = node.layer, self._packed.document
        layer, source = document.layers[name], document.nodes[node.inputs[0]]
        if name not in self._constants:
            affine = self._inputs[source.name] if isinstance(source, Quantize) else None
            self._constants[name] = self._numbers(name, affine)
        op = "Conv" if isinstance(node, Conv) else "Gemm"
        read = [*inputs, *self._constants[name]]
        return self._graph.add(op, read, f"{name}.output", **_attributes(layer))

    def _numbers(self, name: str, source: Affine | None) -> list[str]:
        """Add weights and bias; return their names."""
        found, graph = operands.of_layer(self._packed, name, source), self._graph
        weight = f"{name}.weight"
        if found.affine is None:
            names = [graph.constant(weight, found.weight)]
        else:
            names = [self._dialect.weight(graph, weight, found)]
        return names if found.bias is None else [*names, graph.constant(f"{name}.bias", found.bias)]


def _attributes(layer: Layer) -> dict[str, Any]:
    if layer.groups is None:
        return {"transB": 1}
    return {
        "kernel_shape": layer.shape[2:],
        "strides": layer.stride,
        "pads": layer.padding,
        "dilations": layer.dilation,
        "group": layer.groups,
    }
