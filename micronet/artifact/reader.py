"""From a packed file to the network that it holds, everything checked before anything is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.artifact.format import container, document, layers, pixels, topology
from micronet.artifact.format.container import Contents
from micronet.artifact.format.document import Document, Layer
from micronet.artifact.format.nodes import CODES, Conv, Linear, Pixels, Quantize, Table
from micronet.artifact.format.packing import PackingError, Weights, from_bits, unpack
from micronet.artifact.format.tensors import Spec, one_by_one, specs
from micronet.artifact.network import PackedNetwork
from micronet.artifact.packed_layers import PackedConv2d, PackedImageConv2d, PackedLinear
from micronet.artifact.quantizers import ScaleError, check_like, grey_quantizer, quantizer_of
from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.utils.errors import UserError

FILE = "model.safetensors"


@dataclass(frozen=True)
class Packed:
    """A packed file that was read.

    Attributes:
        path: of the file.
        document: what it says.
        contents: its tensors and sizes.
        sha256: of the whole file.
    """

    path: Path
    document: Document
    contents: Contents
    sha256: str

    def __repr__(self) -> str:
        name = self.document.about.arch
        return f"Packed({name!r} in {str(self.path)!r}, {len(self.document.layers)} layers)"

    @property
    def specs(self) -> dict[str, Spec]:
        """What each tensor is, by name."""
        return specs(self.document)


def find(path: str | Path) -> Path:
    """Return the file that a path means: itself, or the one in a folder."""
    path = Path(path)
    return path / FILE if path.is_dir() else path


def is_packed(path: str | Path) -> bool:
    """Whether a path is that of a packed network, by the words that its header begins with."""
    try:
        with find(path).open("rb") as file:
            start = file.read(8 + 64)
    except OSError:
        return False
    return start[8:].startswith(b'{"__metadata__":{"' + container.KEY.encode() + b'":')


def read(path: str | Path) -> Packed:
    """Read a packed file.

    Args:
        path: the file, or the folder that holds it as ``model.safetensors``.

    Raises:
        UserError: there is none, or it is damaged, of another version or contradicts itself.
    """
    path = find(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return from_content(content, path)


def from_content(content: bytes, path: Path) -> Packed:
    """Read the bytes of a packed file; as ``read`` does."""
    where = repr(str(path))
    contents = container.from_bytes(content, where)
    described = document.from_plain(contents.document, where)
    layers.check(described, len(content), where)
    topology.signals(described, where)
    pixels.check(described, where)
    packed = Packed(path, described, contents, hashlib.sha256(content).hexdigest())
    _check_tensors(packed, where)
    config = document.quantization_config(described.layers, described.nodes)
    if contents.document.get("quantization_config") != config:
        raise UserError(f"{where}: quantization_config is not that of its layers")
    return packed


def _check_tensors(packed: Packed, where: str) -> None:
    """Hold the tensors to those that the document wants."""
    wanted, found = packed.specs, packed.contents.tensors
    if missing := sorted(wanted.keys() - found.keys()):
        raise UserError(f"{where} lacks tensor {missing[0]!r}")
    if more := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{where} has a tensor {more[0]!r} that nothing reads")
    for name, spec in wanted.items():
        dtype, tensor = "float32" if spec.is_float else "uint8", found[name]
        if tensor.dtype.name != dtype or tensor.shape != (spec.size,):
            raise UserError(
                f"{where}: tensor {name!r} is {tensor.dtype.name} of shape {list(tensor.shape)}, "
                f"but must be {dtype} of [{spec.size}]"
            )


def load_packed(path: str | Path) -> PackedNetwork:
    """Return the network of a packed file, on the CPU; it gives the logits of the packed one.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        UserError: there is none, or it is damaged or contradicts itself.
    """
    return network_of(read(path))


def network_of(packed: Packed) -> PackedNetwork:
    """Return the network of a file that was read.

    Raises:
        UserError: a code is none of its levels, a number is not finite, or layers that share a
            weight differ in it.
    """
    where, described = repr(str(packed.path)), packed.document
    tensors = packed.contents.tensors
    quantizers: dict[str, InputQuantizer] = {}
    tables: dict[str, Tensor] = {}
    for node in described.nodes:
        if isinstance(node, CODES):
            try:
                quantizers[node.name] = _quantizer(node, tensors)
                if isinstance(node, Table):
                    tables[node.name] = _table(described, node, tensors)
            except (PackingError, ScaleError) as error:
                raise UserError(f"{where}: quantizer {node.name!r}: {error}") from None
    reads = _quantizers_of_layers(described, where)
    made: dict[str, nn.Module] = {}
    for name, layer in described.layers.items():
        quantizer = quantizers.get(reads.get(name, ""))
        try:
            made[name] = _layer(name, layer, tensors, quantizer)
        except PackingError as error:
            raise UserError(f"{where}: layer {name!r}: {error}") from None
    _share(described, made, where)
    return PackedNetwork(described, made, quantizers, tables)


def _share(described: Document, made: dict[str, nn.Module], where: str) -> None:
    """Let layers of one stored weight hold one parameter, as those did that were packed."""
    for name, layer in described.layers.items():
        if layer.weight_of is not None:
            own, owner = (made[n].get_parameter("weight") for n in (name, layer.weight_of))
            if not torch.equal(own, owner):
                raise UserError(
                    f"{where}: layers {name!r} and {layer.weight_of!r} have one weight, but read "
                    "other values from it"
                )
            made[name].register_parameter("weight", made[layer.weight_of].get_parameter("weight"))


def _quantizers_of_layers(described: Document, where: str) -> dict[str, str]:
    """Return by layer the name of the node of codes that it reads."""
    found: dict[str, str] = {}
    for node in described.nodes:
        if isinstance(node, (Conv, Linear)):
            source = described.nodes[node.inputs[0]]
            name = source.name if isinstance(source, CODES) else ""
            if found.setdefault(node.layer, name) != name:
                raise UserError(f"{where}: layer {node.layer!r} reads the codes of two quantizers")
    return found


def stored_scale_and_zero_points(
    node: Quantize | Table | Pixels, tensors: dict[str, NDArray[Any]]
) -> tuple[float, list[int]]:
    """Return the scale S of a node's values ``i / S`` and the codes of 0, of pixels by channel.

    Raises:
        PackingError: a code is none of its levels.
    """
    scale = float(tensors[f"{node.name}_scale"][0])
    count = len(node.mean) if isinstance(node, Pixels) else 1
    packing = one_by_one(node.levels)
    codes = from_bits(tensors[f"{node.name}_zero_point"], count, packing, node.levels)
    return scale, codes.tolist()


def stored_scale_and_zero_point(
    node: Quantize | Table, tensors: dict[str, NDArray[Any]]
) -> tuple[float, int]:
    """Return the same of a node with one code of 0.

    Raises:
        PackingError: the code is none of its levels.
    """
    scale, codes = stored_scale_and_zero_points(node, tensors)
    return scale, codes[0]


def _quantizer(node: Quantize | Table | Pixels, tensors: dict[str, NDArray[Any]]) -> InputQuantizer:
    scale, codes = stored_scale_and_zero_points(node, tensors)
    if isinstance(node, Pixels):
        return grey_quantizer(node.mean, node.std, scale, codes)
    quantizer = quantizer_of(scale, codes[0], node.levels)
    check_like(quantizer, scale, codes[0])
    return quantizer


def _table(described: Document, node: Table, tensors: dict[str, NDArray[Any]]) -> Tensor:
    source = described.nodes[node.inputs[0]]
    assert isinstance(source, (Quantize, Table))
    packing = one_by_one(node.levels)
    return from_bits(tensors[f"{node.name}_table"], source.levels, packing, node.levels)


_FLOATS = ("weight_scale", "norm_scale", "bias")
_WEIGHTS = ("weight", "weight_packed", "weight_mask")


def weights_of(name: str, layer: Layer, tensors: dict[str, NDArray[Any]]) -> Weights:
    """Return the weights of a layer.

    Raises:
        PackingError: as ``packing.unpack``, or a zero point is none of its levels.
    """
    owner = layer.weight_of or name
    keys = {end: f"{owner}.{end}" for end in _WEIGHTS}
    stored = {end: tensors[key] for end, key in keys.items() if key in tensors}
    zero_point = None
    if layer.levels is not None:
        packing, count = one_by_one(layer.levels), layer.shape[0]
        packed = tensors[f"{name}.weight_zero_point"]
        zero_point = from_bits(packed, count, packing, layer.levels).float()
    return unpack(layer, stored, zero_point)


def _layer(
    name: str, layer: Layer, tensors: dict[str, NDArray[Any]], quantizer: InputQuantizer | None
) -> nn.Module:
    floats = {}
    for end in _FLOATS:
        if (key := f"{name}.{end}") in tensors:
            if not np.isfinite(tensors[key]).all():
                raise PackingError(f"{end} is not finite")
            floats[end] = torch.from_numpy(tensors[key].copy())
    weights = weights_of(name, layer, tensors)
    if layer.sums == document.FLOAT and "weight_scale" in floats:
        _check_positive(floats["weight_scale"])
    if isinstance(quantizer, ImageQuantizer):
        return PackedImageConv2d(layer, weights, floats, quantizer)
    kind = PackedConv2d if len(layer.shape) == 4 else PackedLinear
    return kind(layer, weights, floats, quantizer)


def _check_positive(scale: Tensor) -> None:
    if not bool((scale > 0).all()):
        raise PackingError("weight_scale has a value that is not positive")
