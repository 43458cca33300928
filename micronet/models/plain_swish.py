"""EfficientNet's swish as a function that torch, and what defers its work, knows."""

from __future__ import annotations

from efficientnet_pytorch.utils import MemoryEfficientSwish, Swish
from torch import nn

from micronet.models.replacement import replace_


def use_plain_swish_(model: nn.Module) -> None:
    """Replace a swish that has a gradient of its own, in place, by torch's."""
    for module in list(model.modules()):
        if isinstance(module, (MemoryEfficientSwish, Swish)):
            replace_(module, nn.SiLU())
