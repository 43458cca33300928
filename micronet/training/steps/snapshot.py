"""Copies of tensors, and their values back where a flag on the device says so."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from micronet.models.unchanged import overlaps


class Snapshot:
    """Keeps the values of tensors; its memory is allocated once and used again by every ``save``.

    Args:
        deferred: whether the host must not read the flag of ``restore_unless``. On the CPU it may:
            there is nothing to wait for, and nothing to copy where the flag is set.
    """

    def __init__(self, deferred: bool) -> None:
        self._deferred = deferred
        self._groups: dict[torch.dtype, _Group] = {}

    @torch.no_grad()
    def save(self, tensors: Iterable[Tensor]) -> None:
        """Take the values that ``tensors`` have now, in place of earlier ones.

        Those that cannot be written to are as they were in any case.
        """
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in (tensor for tensor in tensors if not overlaps(tensor)):
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        self._groups = {
            dtype: _Group(group, self._groups.get(dtype)) for dtype, group in by_type.items()
        }

    @torch.no_grad()
    def restore_unless(self, flag: Tensor) -> None:
        """Give the tensors their saved values back, unless ``flag``, a scalar, is set."""
        if self._deferred:
            for group in self._groups.values():
                group.restore_unless(flag)
        elif not bool(flag):
            self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Give the tensors their saved values back."""
        for group in self._groups.values():
            torch._foreach_copy_(group.tensors, group.saved.parts)


class _Group:
    """Tensors of one type, and copies of them in the memory of an earlier group where it fits."""

    def __init__(self, tensors: list[Tensor], earlier: _Group | None) -> None:
        self.tensors = tensors
        self._layout = [(tensor.shape, tensor.stride()) for tensor in tensors]
        fits = earlier is not None and earlier._layout == self._layout
        self.saved: _Flat = earlier.saved if earlier is not None and fits else _Flat(tensors)
        torch._foreach_copy_(self.saved.parts, tensors)

    def restore_unless(self, flag: Tensor) -> None:
        """Choose by a few kernels for all tensors, where one for each would be a thousand."""
        now = _Flat(self.tensors)
        torch._foreach_copy_(now.parts, self.tensors)
        torch.where(flag, now.whole, self.saved.whole, out=now.whole)
        torch._foreach_copy_(self.tensors, now.parts)


class _Flat:
    """One piece of memory, whose ``parts`` have the shapes and memory orders of some tensors."""

    def __init__(self, like: list[Tensor]) -> None:
        numels = [tensor.numel() for tensor in like]
        self.whole = torch.empty(sum(numels), dtype=like[0].dtype, device=like[0].device)
        self.parts = [
            part.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
            for part, tensor in zip(self.whole.split(numels), like, strict=True)
        ]
