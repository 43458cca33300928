"""EfficientNet's swish as a function that torch, and what defers its work, knows."""

from __future__ import annotations

from efficientnet_pytorch.utils import MemoryEfficientSwish, Swish
from torch import nn


def use_plain_swish_(model: nn.Module) -> None:
    """Replace a swish that has a gradient of its own, in place, by torch's."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (MemoryEfficientSwish, Swish)):
                setattr(parent, name, nn.SiLU())
