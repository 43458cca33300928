"""What a compression makes of each layer, as rows and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from micronet.pruning.prune import Zeros
from micronet.quantization import conversion
from micronet.quantization.conversion import LayerReport


@dataclass(frozen=True)
class Report:
    """What becomes of a network's layers.

    Attributes:
        layers: how each computes; empty where nothing is or will be quantized.
        zeros: of each weight that is pruned, by the layer that owns it.
    """

    layers: tuple[LayerReport, ...]
    zeros: Mapping[str, Zeros]

    @property
    def sparsity(self) -> float:
        """The share of exact zeros among the weights that are pruned; 0 where none is."""
        total = sum(layer.total for layer in self.zeros.values())
        return sum(layer.zeros for layer in self.zeros.values()) / total if total else 0.0

    def as_csv(self) -> str:
        """Return how each layer computes as CSV with a heading."""
        return conversion.as_csv(self.layers)

    def __str__(self) -> str:
        """Return totals, and what is not computed in integers with the reason."""
        lines = []
        if self.zeros:
            lines.append(f"{self.sparsity:.1%} of the weights of {len(self.zeros)} layers are zero")
        if self.layers:
            lines.append(conversion.as_text(self.layers))
        return "\n".join(lines) or "nothing is pruned or quantized"
