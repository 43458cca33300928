"""The pieces of a weight that are pruned as one, how much each counts, and their masks.

A weight is (outputs, inputs / groups, ...), see ``outputs_first``. A piece's score is the mean
magnitude of its weights in float64, so that small and large pieces, and layers, can be ranked
together.

Blocks are cut from the matrix (outputs, products): of each position of the kernel in turn, its
inputs, as ``products`` has it. So a block of 1x4 is what the convolution of codes skips at once
(``csrc/cpu/sparse.h``): four products of one output, whatever the kernel's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import micronet_kernels as kernels


def outputs_first(weight: Tensor, layer: nn.Module) -> Tensor:
    """Return a layer's weight, or a tensor of its shape, as (outputs, inputs / groups, ...).

    A transposed convolution keeps it as (inputs, outputs / groups, ...), any other layer so.
    """
    return _exchanged(weight, layer)


def stored_bits(bits: Tensor, layer: _ConvNd | nn.Linear) -> Tensor:
    """Return the packed bits of a weight with its outputs first in the layer's own order."""
    shape = outputs_first_shape(layer)
    keep = kernels.unpack_bits(bits, torch.Size(shape).numel()).view(shape)
    return kernels.pack_bits(_exchanged(keep, layer).contiguous())


def _exchanged(weight: Tensor, layer: nn.Module) -> Tensor:
    """Exchange inputs and outputs within each group, which is its own inverse."""
    if not isinstance(layer, _ConvTransposeNd):
        return weight
    return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)


def outputs_first_shape(layer: _ConvNd | nn.Linear) -> tuple[int, ...]:
    """Return the shape of a convolution's or linear layer's weight, outputs first."""
    shape = tuple(layer.weight.shape)
    if not isinstance(layer, _ConvTransposeNd):
        return shape
    return layer.out_channels, layer.in_channels // layer.groups, *shape[2:]


def problem(shape: tuple[int, ...], structure: str) -> str | None:
    """Return why a weight of ``shape`` has no such pieces, or None if it has."""
    if ":" in structure:
        of = int(structure.split(":")[1])
        if shape[1] % of:
            return f"has {shape[1]} input channels, which are no multiple of {of}"
    return None


def pieces(shape: tuple[int, ...], structure: str) -> int:
    """Return how many pieces a weight of ``shape`` has."""
    outputs, inputs = shape[0], shape[1]
    if structure == "filter":
        return outputs
    if structure == "channel":
        return inputs
    rows, columns = block_size(structure)
    rest = _product(shape[1:])
    return -(-outputs // rows) * -(-rest // columns)


def block_size(structure: str) -> tuple[int, int]:
    """Return (rows, columns) of a block in the matrix (outputs, products)."""
    if "x" not in structure:
        return 1, 1
    rows, columns = structure.split("x")
    return int(rows), int(columns)


def products(weight: Tensor) -> Tensor:
    """Return a weight as the matrix (outputs, products): position by position, all its inputs."""
    return weight.movedim(1, -1).flatten(1)


def scores(weight: Tensor, structure: str) -> Tensor:
    """Return the score of every piece, float64 (pieces,), or float32 (numel,) for elements."""
    if structure == "element":
        return weight.reshape(-1)
    magnitude = weight.double().abs()
    if structure == "filter":
        return magnitude.flatten(1).mean(1)
    if structure == "channel":
        return magnitude.transpose(0, 1).flatten(1).mean(1)
    blocks = _blocks(products(magnitude), structure)
    filled = _blocks(products(torch.ones_like(magnitude)), structure)
    # Blocks at the edges hold fewer weights.
    return (blocks.sum((1, 3)) / filled.sum((1, 3))).reshape(-1)


def spread(keep: Tensor, shape: tuple[int, ...], structure: str) -> Tensor:
    """Return the bits, packed, that keep the weights of the kept pieces.

    Args:
        keep: bool (pieces,).
        shape: of the weight.
        structure: of the pieces.
    """
    if structure == "element":
        whole = keep.view(shape)
    elif structure == "filter":
        whole = keep.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    elif structure == "channel":
        whole = keep.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    else:
        rows, columns = block_size(structure)
        rest = _product(shape[1:])
        grid = keep.view(-(-shape[0] // rows), -(-rest // columns))
        full = grid.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        channels_last = full[: shape[0], :rest].reshape(shape[0], *shape[2:], shape[1])
        whole = channels_last.movedim(-1, 1)
    return kernels.pack_bits(whole.contiguous())


def every_group(weight: Tensor, of: int, count: int) -> Tensor:
    """Return the bits, packed, that prune the ``count`` smallest of every ``of`` inputs.

    Of equal magnitudes the lower input is pruned first.
    """
    channels_last = weight.detach().abs().movedim(1, -1)
    groups = channels_last.reshape(-1, of)
    order = groups.argsort(dim=1, stable=True)
    keep = torch.ones_like(groups, dtype=torch.bool)
    keep.scatter_(1, order[:, :count], False)
    whole = keep.view(channels_last.shape).movedim(-1, 1)
    return kernels.pack_bits(whole.contiguous())


def _blocks(matrix: Tensor, structure: str) -> Tensor:
    """Cut a matrix into blocks (down, rows, across, columns), filled up with zeros."""
    rows, columns = block_size(structure)
    below, right = -matrix.shape[0] % rows, -matrix.shape[1] % columns
    padded = torch.nn.functional.pad(matrix, (0, right, 0, below))
    return padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
