"""Rule sets of the scorer: what each recorded operation and stored tensor costs.

A rule set is a module with

* ``NAME``, and ``WORD_BITS``, the bits of one unit of its storage;
* ``assumed_bits(layers, stem, classifier)``: the precision it takes for granted by layer name where
  none is known, layers without an entry being float;
* ``storage(subject, ops)`` and ``operations(subject, ops)``: the costs, in execution order;
* ``published(subject, ops)``: the figures as the rule set's own program printed them, by name, with
  that program's rounding; absent where there is no such program.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Cost:
    """What one operation, or one stored tensor, is billed, beside its dense float cost.

    Attributes:
        name: of the module or state entry.
        kind: what it is counted under in summaries.
        used: units billed.
        dense: units of the same network, dense and in full precision.
        layer: the convolution or linear layer that it belongs to or follows; "" before any.
        part: "multiply" or "add" where a rule set tells them apart.
        note: how it was counted, where there was a choice.
    """

    name: str
    kind: str
    used: Fraction
    dense: Fraction
    layer: str = ""
    part: str = ""
    note: str = ""
