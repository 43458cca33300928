"""Weights as stored values and a mask, and back.

A weight [O, C / groups, KH, KW] is a matrix [O, the rest], whose rows hold kernel after kernel or,
channels last, position after position of a kernel. Stored values follow each other row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import micronet_kernels as kernels
from micronet.artifact.format.document import BIT_MASK, BLOCK_MASK, DENSE, Layer
from micronet.artifact.format.tensors import one_by_one
from micronet.scoring.network.encodings import Layout
from micronet_kernels.scheme import code_group

Array = NDArray[Any]

# Whole bits for each code, as the official rules count, or groups of codes as one number.
WHOLE, RADIX = PACKINGS = ("whole", "radix")


class PackingError(ValueError):
    """What is wrong with stored weights, in words."""


@dataclass(frozen=True)
class Weights:
    """A layer's weights.

    Attributes:
        codes: uint8, shaped as the weights, None where they are floats.
        values: the integers of the codes, or the floats; float32, 0 where a weight is.
        zero_point: [O], the code of 0; None where weights are floats.
        levels: of the codes, None where they are floats.
    """

    codes: Tensor | None
    values: Tensor
    zero_point: Tensor | None
    levels: int | None


def pack(
    weights: Weights, layout: Layout, packing: str = WHOLE
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what a ``Layer`` says of stored weights, and their tensors by the end of their name.

    Args:
        weights: of a layer.
        layout: as ``LayerFacts.layout`` has chosen it.
        packing: one of ``PACKINGS``.
    """
    blocks = layout.blocks
    channels_last = blocks is not None and blocks.channels_last
    nonzero = _matrix(weights.values != 0, channels_last)
    found: dict[str, Array] = {}
    fields: dict[str, Any] = {"layout": DENSE, "channels_last": channels_last}
    kept = torch.ones_like(nonzero)
    if layout.mask_bits and blocks is None:
        fields["layout"], kept = BIT_MASK, nonzero
        found["weight_mask"] = kernels.pack_bits(nonzero.flatten()).numpy()
    elif blocks is not None:
        fields |= {"layout": BLOCK_MASK, "block": (blocks.rows, blocks.columns)}
        flags = _any_of_blocks(nonzero, blocks.rows, blocks.columns)
        found["weight_mask"] = kernels.pack_bits(flags.flatten()).numpy()
        kept = _widened(flags, nonzero.shape, blocks.rows, blocks.columns)
    fields["values"] = int(kept.sum())
    if weights.codes is None or weights.levels is None:
        stored = _matrix(weights.values, channels_last)[kept]
        return fields, found | {"weight": stored.numpy()}
    group = code_group if packing == RADIX else one_by_one
    fields |= {"levels": weights.levels, "packing": group(weights.levels)}
    stored = _matrix(weights.codes, channels_last)[kept]
    return fields, found | {"weight_packed": to_bits(stored, fields["packing"], weights.levels)}


def unpack(layer: Layer, tensors: Mapping[str, Array], zero_point: Tensor | None) -> Weights:
    """Return the weights of a layer.

    Args:
        layer: whose numbers have been looked at.
        tensors: by the end of their name, of the sizes that the layer says.
        zero_point: [O], of the layer that reads the weights; None where they are floats.

    Raises:
        PackingError: the mask keeps another number of values, a code is none of the levels, a float
            is not finite, or a bit behind the last one is set.
    """
    kept = _kept(layer, tensors)
    count = int(kept.sum())
    if count != layer.values:
        raise PackingError(f"its mask keeps {count} weights, but {layer.values} are stored")
    if layer.packing is None or layer.levels is None or zero_point is None:
        stored = torch.from_numpy(tensors["weight"].copy())
        if not bool(torch.isfinite(stored).all()):
            raise PackingError("a weight is not finite")
        floats = torch.zeros(kept.shape)
        floats[kept] = stored
        return Weights(None, _unmatrix(floats, layer), None, None)
    codes = zero_point.to(torch.uint8)[:, None].expand(kept.shape).clone()
    codes[kept] = from_bits(tensors["weight_packed"], layer.values, layer.packing, layer.levels)
    shaped = _unmatrix(codes, layer)
    integers = shaped.float() - zero_point.view(-1, *(1,) * (shaped.dim() - 1))
    return Weights(shaped, integers, zero_point, layer.levels)


def _kept(layer: Layer, tensors: Mapping[str, Array]) -> Tensor:
    """Return which entries of the matrix are stored."""
    shape = layer.shape[0], layer.depth
    if layer.layout == DENSE:
        return torch.ones(shape, dtype=torch.bool)
    mask = torch.from_numpy(tensors["weight_mask"].copy())
    check_last_bits(tensors["weight_mask"], layer.mask_bits)
    flags = kernels.unpack_bits(mask, layer.mask_bits)
    if layer.block is None:
        return flags.view(shape)
    rows, columns = layer.block
    return _widened(flags.view(-(-shape[0] // rows), -1), torch.Size(shape), rows, columns)


def to_bits(codes: Tensor, packing: tuple[int, ...], levels: int) -> Array:
    """Return codes as bytes, each with bits of its own or in groups."""
    base = 2 ** packing[1] if packing[0] == 1 else levels
    return kernels.pack_codes(codes.to(torch.uint8).flatten(), base).numpy()


def from_bits(packed: Array, count: int, packing: tuple[int, ...], levels: int) -> Tensor:
    """Return the codes of bytes, uint8 [count].

    Raises:
        PackingError: a code is none of the levels, or a bit behind the last one is set.
    """
    base = 2 ** packing[1] if packing[0] == 1 else levels
    codes = kernels.unpack_codes(torch.from_numpy(packed.copy()), count, base)
    if count and int(codes.max()) >= levels:
        raise PackingError(f"code {int(codes.max())} is none of {levels} levels")
    # Groups have numbers beyond their codes too, and bytes bits behind the last: only one writing
    # of codes is read.
    if not np.array_equal(kernels.pack_codes(codes, base).numpy(), packed):
        raise PackingError("bits are set that belong to no code")
    return codes


def check_last_bits(packed: Array, bits: int) -> None:
    """Hold the bits behind the last one to 0.

    Raises:
        PackingError: one is set.
    """
    if bits % 8 and int(packed[-1]) >> bits % 8:
        raise PackingError("bits are set behind the last of its mask")


def _matrix(weights: Tensor, channels_last: bool) -> Tensor:
    ordered = weights.movedim(1, -1) if channels_last else weights
    return ordered.reshape(len(weights), -1)


def _unmatrix(matrix: Tensor, layer: Layer) -> Tensor:
    if not layer.channels_last:
        return matrix.view(layer.shape)
    outputs, channels, *kernel = layer.shape
    return matrix.view(outputs, *kernel, channels).movedim(-1, 1).contiguous()


def _any_of_blocks(nonzero: Tensor, rows: int, columns: int) -> Tensor:
    height, width = nonzero.shape
    padded = torch.nn.functional.pad(nonzero, (0, -width % columns, 0, -height % rows))
    blocks = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    return blocks.any(3).any(1)


def _widened(flags: Tensor, shape: torch.Size, rows: int, columns: int) -> Tensor:
    wide = flags.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return wide[: shape[0], : shape[1]].contiguous()
