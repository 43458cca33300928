"""Tensors under several names: which of them are one, and which only overlap in memory.

Live tensors are compared by the storage that they lie in, never by Python's identities: those of
tensors that are computed on the way are soon another tensor's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

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
