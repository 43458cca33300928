"""Torch's fast path through transformer layers, which goes around their linear layers."""

from __future__ import annotations

from torch import nn


def leave_fast_paths_(model: nn.Module) -> None:
    """Let transformer layers call their linear layers in evaluation too, in place.

    Their fast path hands the parameters to one fused function, to which those of a quantized layer
    are floats. It is not taken by a layer whose activation function it does not know.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
