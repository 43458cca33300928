"""Buffers that a state dict leaves out: constants, and what is saved elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class UnsavedBuffers(nn.Module):
    """A module that refuses to lose them.

    ``to_empty`` moves a module from the meta device to memory that nobody has written, and a state
    dict that is loaded afterwards writes the saved buffers alone: others would stay as they are.

    Raises:
        RuntimeError: such a buffer leaves the meta device.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> UnsavedBuffers:
        before = [
            name
            for name in sorted(self._non_persistent_buffers_set)
            if (buffer := self._buffers.get(name)) is not None and buffer.is_meta and buffer.numel()
        ]
        super()._apply(fn, recurse)
        lost = [name for name in before if not self.get_buffer(name).is_meta]
        if lost:
            raise RuntimeError(
                f"{type(self).__name__} has buffers on the meta device that no state dict holds, "
                f"and to_empty would leave them unwritten: {', '.join(lost)}; quantize or load the "
                "network on the device where it runs"
            )
        return self
