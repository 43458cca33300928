"""A packed file as text and as plain data: its sizes, its layers and its graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

from micronet.artifact.accounting import Account, account
from micronet.artifact.format.document import BLOCK_MASK, VERSION, Document, Layer
from micronet.artifact.format.nodes import Pixels, kind_of
from micronet.artifact.format.tensors import Spec
from micronet.artifact.reader import Packed
from micronet.utils.number_format import grid


def sizes(packed: Packed) -> str:
    """Return where the bytes of a file are, one line each."""
    found = account(packed)
    return "\n".join(
        [
            f"payload   {found.payload} bits in {len(packed.contents.tensors)} tensors"
            + (f", of them {found.factors} of factors behind float sums" if found.factors else "")
            + (f"; codes in groups save {found.saved} bits" if found.saved else ""),
            f"rounding  {found.rounding} bits to whole bytes",
            f"header    {found.header // 8} bytes of names and graph, of them "
            f"{found.padding // 8} of alignment",
            f"file      {found.file_bytes} bytes",
        ]
    )


def description(packed: Packed) -> str:
    """Return all that a file says of itself."""
    document = packed.document
    about = document.about
    size = "x".join(map(str, document.input))
    classes = "" if about.classes is None else f", {len(about.classes)} classes"
    lines = [
        f"network   {about.arch or 'unnamed'} of images {size}{classes}",
        f"format    version {VERSION}, SHA-256 {packed.sha256}",
        sizes(packed),
        f"nodes     {_nodes(document)}",
        f"exact     {_exactness(document)}",
    ]
    if any(isinstance(node, Pixels) for node in document.nodes):
        mean, std = (" ".join(map(str, row or ())) for row in (about.mean, about.std))
        lines.append(f"image     grey values, of mean {mean} and std {std}")
    specs = packed.specs
    rows = [_HEAD, *(_row(name, layer, specs) for name, layer in document.layers.items())]
    return grid(rows, left=2) + "\n\n" + "\n".join(lines)


_HEAD = ["layer", "shape", "sums", "levels", "stored as", "values", "of", "bits"]


def _row(name: str, layer: Layer, specs: dict[str, Spec]) -> list[str]:
    shape = "x".join(map(str, layer.shape))
    levels = "float" if layer.levels is None else str(layer.levels)
    values, numel = str(layer.values), str(layer.numel)
    return [name, shape, layer.sums, levels, _layout(layer), values, numel, _bits(name, specs)]


def _layout(layer: Layer) -> str:
    if layer.weight_of is not None:
        return f"those of {layer.weight_of}"
    if layer.layout != BLOCK_MASK or layer.block is None:
        return layer.layout
    order = ", channels last" if layer.channels_last else ""
    return f"{layer.block[0]}x{layer.block[1]} {BLOCK_MASK}{order}"


def _bits(name: str, specs: dict[str, Spec]) -> str:
    """Return the bits of all tensors of a layer, its input's quantizer among them."""
    return str(sum(spec.bits for key, spec in specs.items() if key.rpartition(".")[0] == name))


def _nodes(document: Document) -> str:
    counts = Counter(kind_of(node) for node in document.nodes)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _exactness(document: Document) -> str:
    found = [i for i, node in enumerate(document.nodes) if not getattr(node, "exact", True)]
    if not found:
        return "every node has one arithmetic, the same bits on every machine"
    kinds = Counter(getattr(document.nodes[i], "function", "") for i in found)
    named = ", ".join(f"{count} {function}" for function, count in sorted(kinds.items()))
    return f"but for {named}, computed by torch's own functions, of this machine's bits"


def as_plain(packed: Packed) -> dict[str, Any]:
    """Return the same as plain data of JSON, with every tensor's bits."""
    found: Account = account(packed)
    return {
        "document": packed.document.to_plain(),
        "sha256": packed.sha256,
        "payload_bits": found.payload,
        "factor_bits": found.factors,
        "saved_bits": found.saved,
        "rounding_bits": found.rounding,
        "header_bytes": found.header // 8,
        "file_bytes": found.file_bytes,
        "tensor_bits": {name: spec.bits for name, spec in sorted(packed.specs.items())},
    }
