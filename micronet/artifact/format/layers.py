"""What a packed file may say of a layer: numbers that fit each other and the file's size."""

from __future__ import annotations

from math import prod

from micronet.artifact.format.document import (
    BIT_MASK,
    BLOCK_MASK,
    DENSE,
    FLOAT,
    INTEGER,
    SCALED,
    Document,
    Layer,
)
from micronet.artifact.format.geometry import TopologyError, check_geometry
from micronet.artifact.format.tensors import one_by_one
from micronet.scoring.network.encodings import SIDES
from micronet.utils.errors import UserError
from micronet_kernels.scheme import code_group

_MOST_AXIS = 2**31 - 1
# A bit of a mask stands for a block of 16 by 16 weights at most, whose integers unpacked are as
# many floats.
_MOST_WEIGHTS_PER_BYTE = 8 * SIDES[-1] ** 2


def check(document: Document, file_bytes: int, where: str) -> None:
    """Hold the layers of a document to what there can be.

    Args:
        document: whose parts have their types.
        file_bytes: of the file, which bounds how many weights there are.
        where: it comes from, for messages.

    Raises:
        UserError: a layer contradicts itself, or has more weights than the file can hold.
    """
    total = 0
    for name, layer in document.layers.items():
        try:
            _check_name(name)
            _check_shape(layer)
            _check_layout(layer)
            _check_sums(layer)
            _check_owner(layer, document)
        except TopologyError as error:
            raise UserError(f"{where}: layer {name!r}: {error}") from None
        total += layer.numel
    if total > file_bytes * _MOST_WEIGHTS_PER_BYTE:
        raise UserError(f"{where}: {total} weights are more than a file of its size holds")


def _check_name(name: str) -> None:
    if not all(part.isidentifier() or part.isdecimal() for part in name.split(".")):
        raise TopologyError("is no name of a module")


def _check_shape(layer: Layer) -> None:
    if len(layer.shape) not in (2, 4) or not all(0 < n <= _MOST_AXIS for n in layer.shape):
        raise TopologyError(f"its weights cannot have the shape {list(layer.shape)}")
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    if len(layer.shape) == 2:
        if any(numbers is not None for numbers in geometry):
            raise TopologyError("a linear layer has no stride, padding, dilation or groups")
        return
    check_geometry(layer.shape[2:], *geometry[:3], sides=4)
    if layer.groups is None or layer.groups < 1 or layer.shape[0] % layer.groups:
        raise TopologyError(f"{layer.groups} groups do not divide {layer.shape[0]} outputs")


def _check_layout(layer: Layer) -> None:
    if layer.layout not in (DENSE, BIT_MASK, BLOCK_MASK):
        raise TopologyError(f"layout is {layer.layout!r}")
    if (layer.block is not None) != (layer.layout == BLOCK_MASK):
        raise TopologyError("a block mask, and no other layout, has a block")
    if layer.block is not None:
        _check_block(layer.block, layer)
    elif layer.channels_last:
        raise TopologyError("only a block mask is channels last")
    if not 0 <= layer.values <= layer.numel:
        raise TopologyError(f"{layer.values} of {layer.numel} weights cannot be stored")
    if layer.layout == DENSE and layer.values != layer.numel:
        raise TopologyError(f"stores {layer.values} of {layer.numel} weights, without a mask")


def _check_block(block: tuple[int, ...], layer: Layer) -> None:
    widths = {*SIDES, prod(layer.shape[2:])}
    if len(block) != 2 or block[0] not in SIDES or block[1] not in widths:
        raise TopologyError(f"block is {list(block)}, which is none that is stored")


def _check_sums(layer: Layer) -> None:
    if layer.sums not in (INTEGER, SCALED, FLOAT):
        raise TopologyError(f"sums is {layer.sums!r}")
    _check_codes(layer)
    if layer.levels is None and layer.sums != FLOAT:
        raise TopologyError(f"its weights are floats, but its sums {layer.sums}")
    if layer.sums == SCALED and len(layer.shape) != 2:
        raise TopologyError("scaled sums are of linear layers")
    if layer.norm_scale and (layer.sums != FLOAT or len(layer.shape) != 4):
        raise TopologyError("norm_scale is of convolutions of float sums")


def _check_codes(layer: Layer) -> None:
    if (layer.levels is None) != (layer.packing is None):
        raise TopologyError("codes have levels and a packing, floats have neither")
    if layer.levels is None:
        return
    if not 2 <= layer.levels <= 256:
        raise TopologyError(f"has {layer.levels} levels, but must have 2 to 256")
    if layer.packing not in (one_by_one(layer.levels), code_group(layer.levels)):
        raise TopologyError(f"packing is {layer.packing}, which codes do not have")


def _check_owner(layer: Layer, document: Document) -> None:
    if layer.weight_of is None:
        return
    owner = document.layers.get(layer.weight_of)
    if owner is None or owner.weight_of is not None:
        raise TopologyError(f"its weights are those of {layer.weight_of!r}, which stores none")
    for name in ("shape", "levels", "layout", "values", "packing", "block", "channels_last"):
        if getattr(owner, name) != getattr(layer, name):
            raise TopologyError(f"its weights have another {name} than {layer.weight_of!r}")
