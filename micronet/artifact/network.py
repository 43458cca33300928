"""The network of a packed file: its layers under their own names, its graph as plain steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.artifact.format import nodes
from micronet.artifact.format.document import Document
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class _Rounded:
    """Codes: values that a quantizer rounds once more, or has rounded."""

    source: Tensor
    quantizer: InputQuantizer

    def values(self) -> Tensor:
        return self.quantizer(self.source)


_Signal = Tensor | _Rounded


class PackedNetwork(nn.Module):
    """A network that only evaluates; it maps images (N, C, H, W) to what the packed one gave.

    Attributes:
        document: what the file says.
    """

    def __init__(
        self,
        document: Document,
        layers: Mapping[str, nn.Module],
        quantizers: Mapping[str, InputQuantizer],
        tables: Mapping[str, Tensor],
    ) -> None:
        """Put layers where their names say.

        Args:
            document: whose graph has been looked at.
            layers: by name.
            quantizers: of the nodes of codes, by their names.
            tables: codes of the nodes that are tables, by their names.

        Raises:
            UserError: a layer's name is one of the class's own, or of two modules.
        """
        super().__init__()
        self.document = document
        self._quantizers, self._tables = dict(quantizers), dict(tables)
        for name, layer in layers.items():
            _place(self, name, layer)
        self._last_reader = _last_readers(document)
        self.eval()

    def train(self, mode: bool = True) -> PackedNetwork:
        """Stay in evaluation mode: there is nothing to train."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedNetwork:
        """Move quantizers that no layer owns too: those are no submodules."""
        for quantizer in self._quantizers.values():
            quantizer._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output for images (N, C, H, W) of the size that it was packed for.

        Raises:
            UserError: images are of another size.
        """
        if tuple(images.shape[1:]) != self.document.input:
            wanted, got = (list(shape) for shape in (self.document.input, images.shape[1:]))
            raise UserError(f"the packed network takes images of {wanted}, not {got}")
        found: dict[int, _Signal] = {0: images}
        for index, node in enumerate(self.document.nodes[1:], 1):
            inputs = [found[i] for i in node.inputs]  # type: ignore[union-attr]
            found[index] = self._step(node, inputs)
            for i in node.inputs:  # type: ignore[union-attr]
                if self._last_reader[i] == index:
                    found.pop(i, None)
        return _values(found[self.document.output])

    def _step(self, node: nodes.Node, inputs: list[_Signal]) -> _Signal:
        if isinstance(node, (nodes.Quantize, nodes.Pixels)):
            return _Rounded(_values(inputs[0]), self._quantizers[node.name])
        if isinstance(node, nodes.Table):
            return self._looked_up(node, inputs[0])
        if isinstance(node, (nodes.Conv, nodes.Linear)):
            x = inputs[0]
            # A layer of codes rounds its input itself, by the quantizer of the node before it.
            return self.get_submodule(node.layer)(x.source if isinstance(x, _Rounded) else x)
        return _OPERATIONS[type(node)](node, *map(_values, inputs))

    def _looked_up(self, node: nodes.Table, x: _Signal) -> _Rounded:
        assert isinstance(x, _Rounded)
        scale, zero = x.quantizer.scale, x.quantizer.ends()[0]
        codes = torch.round(x.values() * scale - torch.round(zero * scale))
        table = self._tables[node.name].to(codes.device)
        quantizer = self._quantizers[node.name]
        if codes.is_meta:
            return _Rounded(torch.empty_like(codes), quantizer)
        out, low = table[codes.long()].float(), quantizer.ends()[0]
        return _Rounded((out + torch.round(low * quantizer.scale)) / quantizer.scale, quantizer)


def _place(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer below a root, in modules that are made on the way."""
    *path, last = name.split(".")
    around = root
    try:
        for part in path:
            if part not in around._modules:
                around.add_module(part, nn.Module())
            around = around.get_submodule(part)
        around.add_module(last, layer)
    except (KeyError, AttributeError):
        raise UserError(f"a packed network cannot have a layer {name!r}") from None


def _last_readers(document: Document) -> dict[int, int]:
    """Return by node the last one that reads it; the output is read by none of them."""
    readers = {
        i: index for index, node in enumerate(document.nodes) for i in getattr(node, "inputs", ())
    }
    readers[document.output] = len(document.nodes)
    return readers


def _values(x: _Signal) -> Tensor:
    return x.values() if isinstance(x, _Rounded) else x


def _activation(node: nodes.Activation, x: Tensor) -> Tensor:
    is_stated = node.exact and kernels.is_eager(x)
    return (_STATED if is_stated else _FUNCTIONS)[node.function](x)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
}
_STATED: dict[str, Callable[[Tensor], Tensor]] = _FUNCTIONS | {
    "hardswish": kernels.hardswish,
    "hardsigmoid": kernels.hardsigmoid,
    "swish": kernels.swish,
    "sigmoid": kernels.sigmoid,
}


def _pool(node: nodes.Pool, x: Tensor) -> Tensor:
    if node.function == "max":
        return F.max_pool2d(x, node.kernel, node.stride, node.padding, node.dilation)  # type: ignore[arg-type]
    if node.exact and kernels.is_eager(x):
        return kernels.position_means(x)
    return x.mean((2, 3), keepdim=True)


def _gate(node: nodes.Gate, x: Tensor, factors: Tensor) -> Tensor:
    return x * factors


def _add(node: nodes.Add, x: Tensor, y: Tensor) -> Tensor:
    return x + y


def _concat(node: nodes.Concat, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, 1)


def _reshape(node: nodes.Reshape, x: Tensor) -> Tensor:
    return x.reshape(len(x), *node.shape)


def _slice(node: nodes.Slice, x: Tensor) -> Tensor:
    parts = zip(node.start, node.stop, node.step, strict=True)
    return x[(slice(None), *(slice(a, b, s) for a, b, s in parts))]


def _pad(node: nodes.Pad, x: Tensor) -> Tensor:
    sides = zip(reversed(node.before), reversed(node.after), strict=True)
    return F.pad(x, [n for pair in sides for n in pair])


_OPERATIONS: dict[type, Callable[..., Tensor]] = {
    nodes.Activation: _activation,
    nodes.Pool: _pool,
    nodes.Gate: _gate,
    nodes.Add: _add,
    nodes.Concat: _concat,
    nodes.Reshape: _reshape,
    nodes.Slice: _slice,
    nodes.Pad: _pad,
}
