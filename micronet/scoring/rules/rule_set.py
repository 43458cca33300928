"""What a rule set is, and what it says that an operation or a stored tensor costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from micronet.quantization.quantize import LayerBits
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations.records import Op


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


Bill: TypeAlias = Callable[[ScoredNetwork, Sequence[Op]], Iterator[Cost]]


@dataclass(frozen=True)
class RuleSet:
    """Prices of a network's storage and operations.

    Attributes:
        name: as the command line has it.
        word_bits: bits of one unit of its storage.
        assumed_bits: from the layers' names, the stem's and the classifier's to the precision that
            it takes for granted where none is known; layers without an entry are float.
        storage: the costs of what is stored, in execution order.
        operations: the costs of what is executed, in execution order.
        published: the figures as the rule set's own program printed them, by name, with that
            program's rounding; None where there is no such program.
        image_size: the side at which it scores an EfficientNet, None for the network's own.
        bills_accumulators: whether additions are billed at the accumulator's width; other rule sets
            bill them at a width of their own.
    """

    name: str
    word_bits: int
    assumed_bits: Callable[[Sequence[str], str, str], dict[str, LayerBits]]
    storage: Bill
    operations: Bill
    published: Callable[[ScoredNetwork, Sequence[Op]], dict[str, str]] | None = None
    image_size: int | None = None
    bills_accumulators: bool = False
