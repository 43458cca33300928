"""Weights that a file keeps in parts: pruned, weight-normalized and spectrally normalized ones.

Each is what torch itself computes in evaluation from the parts that it saves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

# How torch names the parts of a weight: beside it, and below torch.nn.utils.parametrize.
_BESIDE = re.compile(r"(?P<stem>.*)_(?P<part>orig|mask|g|u|v)")
_PARAMETRIZED = re.compile(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<leaf>\w+)\.(?P<part>.+)")


def put_together(
    names: Mapping[str, Tensor], leaves: Collection[str], transposed: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return a file's tensors with each weight that it keeps in parts computed from them.

    Args:
        names: tensors by name.
        leaves: the last parts of the names that the network has: those stay as they are.
        transposed: ends of names of weights whose outputs are their second dimension.

    Parts that are of no known kind, or do not fit one another, stay as they are too.
    """
    result = dict(names)
    for stem, parts in _by_weight(names, leaves).items():
        tensors = {part: names[name] for part, name in parts.items()}
        compute = _KINDS.get(frozenset(parts))
        outputs = int(any(f".{stem}".endswith(f".{name}") for name in transposed))
        types = {tensor.dtype for part, tensor in tensors.items() if part != "mask"}
        alike = len(types) == 1 and next(iter(types)).is_floating_point
        weight = compute(tensors, outputs) if compute and alike else None
        if weight is not None and stem not in names:
            result = {name: value for name, value in result.items() if name not in parts.values()}
            result[stem] = weight
    return result


def _by_weight(names: Collection[str], leaves: Collection[str]) -> dict[str, dict[str, str]]:
    """Return for each weight the names of its parts."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _PARAMETRIZED.fullmatch(name):
            stem = match["owner"] + match["leaf"]
        elif (match := _BESIDE.fullmatch(name)) and name.rpartition(".")[2] not in leaves:
            stem = match["stem"]
        else:
            continue
        found.setdefault(stem, {})[match["part"]] = name
    return found


def _masked(weight: Tensor, mask: Tensor) -> Tensor | None:
    return mask.to(weight.dtype) * weight if mask.shape == weight.shape else None


def _weight_normalized(magnitude: Tensor, direction: Tensor) -> Tensor | None:
    """Return ``direction`` with each of its slices, or all of it, as long as ``magnitude`` says."""
    shape = direction.shape
    if not shape:
        return None
    if magnitude.dim() == 0:
        return torch._weight_norm(direction, magnitude, -1)
    long = [dim for dim, size in enumerate(magnitude.shape) if size > 1]
    dim = long[0] if long else next((d for d, size in enumerate(shape) if size == 1), 0)
    wanted = [size if at == dim else 1 for at, size in enumerate(shape)]
    if list(magnitude.shape) != wanted:
        return None
    return torch._weight_norm(direction, magnitude, dim)


def _spectrally_normalized(
    weight: Tensor, left: Tensor, right: Tensor, outputs: int
) -> Tensor | None:
    """Return ``weight`` divided by its largest singular value, as its singular vectors give it.

    They are those of a matrix whose rows are one dimension: the outputs, unless only the other of
    the first two has their sizes.
    """
    for dim in (outputs, 1 - outputs) if weight.dim() > 1 else ():
        matrix = weight.transpose(0, dim).flatten(1)
        if (*left.shape, *right.shape) == tuple(matrix.shape):
            return weight / torch.dot(left, torch.mv(matrix, right))
    return None


_KINDS: dict[frozenset[str], Callable[[Mapping[str, Tensor], int], Tensor | None]] = {
    frozenset(("orig", "mask")): lambda p, _: _masked(p["orig"], p["mask"]),
    frozenset(("g", "v")): lambda p, _: _weight_normalized(p["g"], p["v"]),
    frozenset(("original0", "original1")): lambda p, _: _weight_normalized(
        p["original0"], p["original1"]
    ),
    frozenset(("orig", "u", "v")): lambda p, outputs: _spectrally_normalized(
        p["orig"], p["u"], p["v"], outputs
    ),
    frozenset(("original", "0._u", "0._v")): lambda p, outputs: _spectrally_normalized(
        p["original"], p["0._u"], p["0._v"], outputs
    ),
}
