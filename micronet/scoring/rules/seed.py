"""Rule set ``seed``: how the 2019 challenge entry of IST first scored itself (July 2019).

Storage is in 16-bit words over every entry of the state dict; one operation is one
multiply-accumulate, one normalized, activated or pooled element, in 16-bit units. ``ist`` tells
what its script took for granted and where it went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from micronet.scoring.network.scored_network import Subject
from micronet.scoring.operations.operation_walk import Op
from micronet.scoring.rules import Cost, ist, ist_operations, ist_published, ist_storage

NAME = "seed"
WORD_BITS = 16
IMAGE_SIZE = ist.IMAGE_SIZE
STORAGE = ist_storage.StorageRules()
OPERATIONS = ist_operations.OperationRules(word_bits=WORD_BITS)

assumed_bits = partial(ist.assumed_bits, classifier_bits=2.4)


def storage(subject: Subject, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the 16-bit words of every entry of the state dict."""
    return ist_storage.storage(STORAGE, subject)


def operations(subject: Subject, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the cost of every operation in execution order."""
    return ist_operations.operations(OPERATIONS, subject, ops)


def published(subject: Subject, ops: Sequence[Op]) -> dict[str, str]:
    """Return the figures as the script printed them, its operations summed in float32."""
    return ist_published.in_words(STORAGE, OPERATIONS, subject, ops)
