"""What a rule set takes for granted of a network that says nothing of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from micronet.quantization.quantize import LayerBits


class Assumptions(Protocol):
    """The part of a rule set that describes a network rather than bills it."""

    @property
    def image_size(self) -> int | None:
        """The side at which an EfficientNet is scored, None for its own."""

    def assumed_bits(
        self, layers: Sequence[str], stem: str, classifier: str, /
    ) -> dict[str, LayerBits]:
        """Return the precision of layers by name; those without an entry are float."""
