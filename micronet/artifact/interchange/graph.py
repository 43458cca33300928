"""An ONNX graph that grows node by node; every value has a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

PRODUCER, OUTPUT = "micronet", "output"
INT4, UINT4 = TensorProto.INT4, TensorProto.UINT4
INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8
FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64
_TYPES: dict[int, str] = {INT8: "i1", UINT8: "u1", FLOAT: "<f4", _INT64: "<i8"}


class Graph:
    """Nodes and constants so far."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._names: set[str] = {OUTPUT}

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node of one output.

        Args:
            op: of ONNX, or with ``domain`` of another set of operators.
            inputs: names of values.
            name: of node and output, to which a number is added where another has it.
            attributes: of the node.

        Returns:
            The name of the output.
        """
        name = self._own(name)
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, kind: int = FLOAT) -> str:
        """Add a constant and return its name.

        Args:
            name: as that of a node.
            values: anything that numpy takes, in range.
            kind: of its elements; two of four bits go in a byte, the first in the low ones.
        """
        array, name = np.asarray(values), self._own(name)
        content = _nibbles(array) if kind in (INT4, UINT4) else array.astype(_TYPES[kind]).tobytes()
        self._constants.append(helper.make_tensor(name, kind, array.shape, content, raw=True))
        return name

    def whole(self, name: str, values: Sequence[int]) -> str:
        """Add a constant list of whole numbers, as shapes and axes are."""
        return self.constant(name, values, _INT64)

    def reserve(self, name: str) -> str:
        """Return a name that nothing else will have, as of the graph's input."""
        return self._own(name)

    def _own(self, name: str) -> str:
        own, count = name, 1
        while own in self._names:
            count += 1
            own = f"{name}.{count}"
        self._names.add(own)
        return own

    def model(
        self,
        ends: tuple[tuple[str, Sequence[int]], tuple[str, Sequence[int]]],
        opsets: Mapping[str, int],
        metadata: Mapping[str, str],
    ) -> ModelProto:
        """Return the model.

        Args:
            ends: name and shape of an image, and of what becomes the output of that name.
            opsets: version of each set of operators, ONNX's own being ``""``.
            metadata: what else it says.
        """
        (images, image), (value, shape) = ends
        self._rename(value, OUTPUT)
        named = (images, image), (OUTPUT, shape)
        infos = [helper.make_tensor_value_info(n, FLOAT, ["N", *size]) for n, size in named]
        graph: GraphProto = helper.make_graph(
            self._nodes, PRODUCER, infos[:1], infos[1:], self._constants
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, producer_name=PRODUCER)
        # The oldest version that has these operators, whatever the package is.
        model.ir_version = helper.find_min_ir_version_for(imports[:1])
        helper.set_model_props(model, dict(metadata))
        return model

    def _rename(self, value: str, name: str) -> None:
        for node in self._nodes:
            for values in (node.input, node.output):
                for i, found in enumerate(values):
                    if found == value:
                        values[i] = name


def _nibbles(values: NDArray[Any]) -> bytes:
    flat = values.astype(np.int64).ravel() & 15
    if flat.size % 2:
        flat = np.append(flat, 0)
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
