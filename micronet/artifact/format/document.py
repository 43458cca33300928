"""What a packed file says beside its tensors: layers, the graph that joins them, and its signals.

Every dataclass here is an object of the metadata, its fields being the keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from micronet.artifact.format.nodes import CODES, KINDS, Conv, Linear, Node, kind_of
from micronet.recipe.strict import build, to_plain
from micronet.runs.folder_files import PACKED
from micronet.utils.errors import UserError

FORMAT, VERSION = PACKED, 1
# How a layer sums; see the page of the format.
INTEGER, SCALED, FLOAT = "integer", "scaled", "float"
DENSE, BIT_MASK, BLOCK_MASK = "dense", "bit mask", "block mask"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, whose tensors are named after it.

    Attributes:
        shape: of the weights, [O, C / groups, KH, KW] or [O, K].
        sums: ``INTEGER``, ``SCALED`` or ``FLOAT``.
        layout: ``DENSE``, ``BIT_MASK`` or ``BLOCK_MASK``.
        values: how many weights are stored.
        levels: of the weights, None where they are floats.
        packing: codes in a group and bits of a group.
        block: rows and columns of a block.
        channels_last: whether a row of the matrix of blocks holds position after position.
        bias: whether it adds one.
        norm_scale: whether float sums are multiplied by a factor before.
        stride, padding, dilation, groups: of a convolution; padding is top, left, bottom, right.
        weight_of: the layer that stores the weights, where it is another one.
    """

    shape: tuple[int, ...]
    sums: str
    layout: str
    values: int
    levels: int | None = None
    packing: tuple[int, ...] | None = None
    block: tuple[int, ...] | None = None
    channels_last: bool = False
    bias: bool = False
    norm_scale: bool = False
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    groups: int | None = None
    weight_of: str | None = None

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def depth(self) -> int:
        """Products that make one output."""
        return prod(self.shape[1:])

    @property
    def mask_bits(self) -> int:
        """Bits of the mask, 0 where there is none."""
        if self.layout == DENSE:
            return 0
        if self.block is None:
            return self.numel
        rows, columns = self.block
        return -(-self.shape[0] // rows) * -(-self.depth // columns)


@dataclass(frozen=True)
class About:
    """What is known of a network beside what it computes; None where it is not."""

    arch: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Document:
    """A network without its tensors.

    Attributes:
        input: shape of one image, [C, H, W].
        nodes: in an order in which they may be computed; the first is the image.
        output: the node whose values are the network's.
        layers: by name.
        about: what else is known.
    """

    input: tuple[int, ...]
    nodes: tuple[Node, ...]
    output: int
    layers: dict[str, Layer]
    about: About

    def to_plain(self) -> dict[str, Any]:
        """Return plain data that ``from_plain`` reads back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "input": list(self.input),
            "nodes": [{"kind": kind_of(node), **_plain(node)} for node in self.nodes],
            "output": self.output,
            "layers": {name: _plain(layer) for name, layer in self.layers.items()},
            "about": _plain(self.about),
            "quantization_config": quantization_config(self.layers, self.nodes),
        }


def _plain(part: Node | Layer | About) -> dict[str, Any]:
    """Return plain data without what is as a key that is missing says."""
    usual = {field.name: field.default for field in dataclasses.fields(part)}
    return {key: value for key, value in to_plain(part).items() if value != usual[key]}


def from_plain(plain: Mapping[str, Any], where: str) -> Document:
    """Return a document whose parts have their types; how they fit each other is not looked at.

    Raises:
        UserError: it is of another format or version, or a key is unknown, missing or of another
            type.
    """
    if plain.get("format") != FORMAT:
        raise UserError(f"{where}: format is {plain.get('format')!r}, but must be {FORMAT!r}")
    if plain.get("version") != VERSION or type(plain["version"]) is not int:
        raise UserError(
            f"{where} has version {plain.get('version')!r}, this program reads {VERSION}"
        )
    said = {k: v for k, v in plain.items() if k not in ("format", "version", "nodes")}
    said.pop("quantization_config", None)
    nodes = plain.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise UserError(f"{where}: nodes must be a list with at least one entry")
    read = tuple(_node(node, f"nodes[{i}]", where) for i, node in enumerate(nodes))
    rest = build(_Rest, said, "", where)
    fields = {field.name: getattr(rest, field.name) for field in dataclasses.fields(_Rest)}
    return Document(nodes=read, **fields)


@dataclass(frozen=True)
class _Rest:
    """A document without its nodes, whose types depend on their kinds."""

    input: tuple[int, ...]
    output: int
    layers: dict[str, Layer]
    about: About


def _node(plain: Any, key: str, where: str) -> Node:
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where}: {key} is of no kind that version {VERSION} has: {kind!r}")
    return build(KINDS[kind], {k: v for k, v in plain.items() if k != "kind"}, key, where)


def quantization_config(layers: Mapping[str, Layer], nodes: tuple[Node, ...]) -> dict[str, Any]:
    """Return what the Hugging Face Hub shows of precision, in the words of compressed-tensors."""
    levels = _input_levels(nodes)
    groups: dict[tuple[int | None, int | None], list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault((layer.levels, levels.get(name)), []).append(name)
    ignored = groups.pop((None, None), [])
    order = sorted(groups.items(), key=lambda item: item[1])
    return {
        "quant_method": "micronet",
        "format": FORMAT,
        "config_groups": {
            f"group_{i}": {
                "targets": sorted(names),
                "weights": _arguments(of_weights, "channel"),
                "input_activations": _arguments(of_input, "tensor"),
            }
            for i, ((of_weights, of_input), names) in enumerate(order)
        },
        "ignore": sorted(ignored),
    }


def _input_levels(nodes: tuple[Node, ...]) -> dict[str, int]:
    """Return by layer how many levels its input has, of those that read codes."""
    found = {}
    for node in nodes:
        if isinstance(node, (Conv, Linear)) and len(node.inputs) == 1:
            index = node.inputs[0]
            source = nodes[index] if 0 <= index < len(nodes) else None
            if isinstance(source, CODES):
                found[node.layer] = source.levels
    return found


def _arguments(levels: int | None, strategy: str) -> dict[str, Any] | None:
    if levels is None:
        return None
    bits = max(levels - 1, 0).bit_length()
    return {
        "num_bits": bits,
        "levels": levels,
        "type": "int",
        "symmetric": False,
        "strategy": strategy,
    }
