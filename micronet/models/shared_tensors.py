"""Tensors under several names: which of them are one, and which only overlap in memory.

Live tensors are compared by the storage that they lie in, never by Python's identities: those of
tensors that are computed on the way are soon another tensor's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from micronet.utils.errors import UserError

View: TypeAlias = tuple[int, int, torch.Size, tuple[int, ...], torch.dtype]


def view_of(tensor: Tensor) -> View:
    """Return what two live tensors have in common if, and only if, they are the same elements.

    A storage goes by its own address and not by that of its memory, which the meta device lacks.
    """
    return (
        tensor.untyped_storage()._cdata,
        int(tensor.storage_offset()),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for every name, the first name of the same tensor."""
    first: dict[View, str] = {}
    return {name: first.setdefault(view_of(tensor), name) for name, tensor in tensors.items()}


def under_every_name(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """Return tensors for a network with each under all the names that it has there.

    Args:
        own: the network's state.
        state: tensors by some of its names, and whatever else.
        path: the file that they come from, for messages.

    Raises:
        UserError: there are two different tensors for one of the network.
    """
    first, given = first_names(own), dict[str, str]()
    for name in (name for name in own if name in state):
        other = given.setdefault(first[name], name)
        if name != other and not torch.equal(state[name], state[other]):
            raise UserError(
                f"the weights in {str(path)!r} are of another architecture: {other!r} and "
                f"{name!r} are one tensor in this network, and two different ones there"
            )
    missing = {n: state[given[first[n]]] for n in own if n not in state and first[n] in given}
    return dict(state) | missing


def overlapping(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of two tensors that overlap in memory without being the same, if any do."""
    by_storage: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name, first in first_names(tensors).items():
        if name == first and tensors[name].numel():
            storage = view_of(tensors[name])[0]
            by_storage[storage].append((*_extent(tensors[name]), name))
    for extents in by_storage.values():
        for (_, end, name), (begin, _, other) in itertools.pairwise(sorted(extents)):
            if begin < end:
                return name, other
    return None


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage, and the one after its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in steps)
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return begin, begin + length * tensor.element_size()
