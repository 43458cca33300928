"""Which tensors a packed file has, of what sizes, and what each is billed as: the one list of them.

The writer makes these, the reader wants these and no others, and what they take is what the
official rules count: by each tensor stands the cost that it is a part of.
"""

from __future__ import annotations

from dataclasses import dataclass

from micronet.artifact.format.document import Document, Layer
from micronet.artifact.format.nodes import CODES, Pixels, Quantize, Table
from micronet.scoring.network.encodings import code_bits

_FLOAT_BITS = 32
# What the quantizer of a layer's input is named.
INPUT = ".input"


@dataclass(frozen=True)
class Spec:
    """One tensor of a file.

    Attributes:
        bits: that hold information; the last byte may have more.
        is_float: of type F32, one dimension; else bytes.
        cost: name and kind of the cost that the official rules bill it in.
        saved: bits that the official rules count beside these: they count whole ones of each code.
    """

    bits: int
    is_float: bool
    cost: tuple[str, str]
    saved: int = 0

    @property
    def counted(self) -> int:
        """Bits that the official rules count."""
        return self.bits + self.saved

    @property
    def size(self) -> int:
        """Number of floats or bytes."""
        return self.bits // _FLOAT_BITS if self.is_float else -(-self.bits // 8)


def packed_bits(count: int, packing: tuple[int, ...]) -> int:
    """Return the bits of codes in groups."""
    size, bits = packing
    return -(-count // size) * bits


def one_by_one(levels: int) -> tuple[int, int]:
    """Return the packing of codes that each have bits of their own."""
    return 1, code_bits(levels)


def specs(document: Document) -> dict[str, Spec]:
    """Return the tensors of a document by name, in no order; one of two that are called alike."""
    found: dict[str, Spec] = {}
    for name, layer in document.layers.items():
        found |= _of_layer(name, layer)
    for node in document.nodes:
        if isinstance(node, CODES):
            found |= _of_quantizer(node)
            if isinstance(node, Table):
                entries = _entries(document, node)
                bits = packed_bits(entries, one_by_one(node.levels))
                found[f"{node.name}_table"] = Spec(bits, False, (node.name, "tables"))
    return found


def _of_layer(name: str, layer: Layer) -> dict[str, Spec]:
    outputs = layer.shape[0]
    found: dict[str, Spec] = {}
    if layer.weight_of is None:
        weights, masks = (f"{name}.weight", "weights"), (f"{name}.weight", "masks")
        if layer.packing is None:
            found[f"{name}.weight"] = Spec(layer.values * _FLOAT_BITS, True, weights)
        else:
            bits = packed_bits(layer.values, layer.packing)
            whole = packed_bits(layer.values, one_by_one(layer.levels)) if layer.levels else bits
            found[f"{name}.weight_packed"] = Spec(bits, False, weights, whole - bits)
        if layer.mask_bits:
            found[f"{name}.weight_mask"] = Spec(layer.mask_bits, False, masks)
    floats = outputs * _FLOAT_BITS
    if layer.levels is not None:
        quantizer = f"{name} quantizer of weights", "scales and zero points"
        found[f"{name}.weight_scale"] = Spec(floats, True, quantizer)
        bits = outputs * code_bits(layer.levels)
        found[f"{name}.weight_zero_point"] = Spec(bits, False, quantizer)
    if layer.norm_scale:
        found[f"{name}.norm_scale"] = Spec(floats, True, (f"{name}.norm_scale", "normalizations"))
    if layer.bias:
        found[f"{name}.bias"] = Spec(floats, True, (f"{name}.bias", "biases"))
    return found


def _of_quantizer(node: Quantize | Table | Pixels) -> dict[str, Spec]:
    layer = node.name.removesuffix(INPUT)
    cost = f"{layer} quantizer of input", "scales and zero points"
    zero_points = len(node.mean) if isinstance(node, Pixels) else 1
    return {
        f"{node.name}_scale": Spec(_FLOAT_BITS, True, cost),
        f"{node.name}_zero_point": Spec(zero_points * code_bits(node.levels), False, cost),
    }


def _entries(document: Document, node: Table) -> int:
    """Return the levels of what a table reads."""
    source = document.nodes[node.inputs[0]]
    return source.levels if isinstance(source, CODES) else 0
