"""Rule set ``leaderboard``: the score of the 2019 entry that the organizers verified, 0.3772.

As ``ist-final``, but all activation functions in full precision (README of December 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from micronet.scoring.network.scored_network import Subject
from micronet.scoring.operations.operation_walk import Op
from micronet.scoring.rules import Cost, ist, ist_operations, ist_published, ist_storage

NAME = "leaderboard"
WORD_BITS = 32
IMAGE_SIZE = ist.IMAGE_SIZE
STORAGE = ist_storage.StorageRules(masks=True, whole_bits=True)
OPERATIONS = ist_operations.OperationRules(
    word_bits=WORD_BITS,
    classifier="apart",
    additions="float",
    steps=3,
    float_activations="all",
    normalization="free",
    whole_bits=True,
)

assumed_bits = partial(ist.assumed_bits, classifier_bits=3)


def storage(subject: Subject, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield what every stored tensor costs, in parameters of 32 bits."""
    return ist_storage.storage(STORAGE, subject)


def operations(subject: Subject, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the cost of every operation in execution order."""
    return ist_operations.operations(OPERATIONS, subject, ops)


def published(subject: Subject, ops: Sequence[Op]) -> dict[str, str]:
    """Return the figures as the script printed them, its operations summed in float32."""
    return ist_published.in_bits(STORAGE, OPERATIONS, subject, ops)
