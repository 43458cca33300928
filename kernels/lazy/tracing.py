"""Whether a call computes values now, or something only looks at what would be computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pending import PendingTensor, is_recorded

_ORDINARY = (Tensor, nn.Parameter)


def is_tracing() -> bool:
    """Whether torch.compile, export, jit, a FakeTensorMode or functorch is looking on."""
    if torch.compiler.is_compiling():
        return True
    if torch._C._get_tracing_state() is not None:
        return True
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return is_recorded()


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether kernels may read these tensors now: each has memory of its own, or waits for it.

    Neither holds for a proxy of torch.fx, a fake, batched or distributed tensor, or a meta tensor:
    those are to meet ordinary operators.
    """
    if is_tracing():
        return False
    return all(t is None or _has_values(t) for t in tensors)


def _has_values(t: Tensor) -> bool:
    # Exact types: a stranger's subclass has a dispatch of its own, which an operator would skip.
    return isinstance(t, PendingTensor) or (type(t) in _ORDINARY and not t.is_meta)
