"""Rule sets of the scorer: what each recorded operation and stored tensor costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Precision:
    """Bits that a rule set bills: of each layer's weights, and of element-wise work."""

    weights: Mapping[str, Fraction]
    elementwise: Fraction


@dataclass(frozen=True)
class Cost:
    """What one operation, or one stored tensor, is billed, beside its dense float cost."""

    name: str
    kind: str
    used: Fraction
    dense: Fraction
