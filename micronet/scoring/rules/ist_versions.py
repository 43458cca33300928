"""Four of the versions in which the 2019 challenge entry of IST scored itself, as rule sets.

``ist`` tells what its scripts took for granted and where they went wrong; a version is a choice of
switches over ``ist_storage`` and ``ist_operations``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations.records import Op
from micronet.scoring.rules import ist, ist_operations, ist_published, ist_storage
from micronet.scoring.rules.ist_operations import OperationRules
from micronet.scoring.rules.ist_storage import StorageRules
from micronet.scoring.rules.rule_set import RuleSet

_Published = Callable[[StorageRules, OperationRules, ScoredNetwork, Sequence[Op]], dict[str, str]]


def _version(
    name: str,
    classifier_bits: float,
    stored: StorageRules,
    executed: OperationRules,
    published: _Published,
) -> RuleSet:
    return RuleSet(
        name,
        executed.word_bits,
        partial(ist.assumed_bits, classifier_bits=classifier_bits),
        lambda subject, ops: ist_storage.storage(stored, subject),
        lambda subject, ops: ist_operations.operations(executed, subject, ops),
        lambda subject, ops: published(stored, executed, subject, ops),
        ist.IMAGE_SIZE,
    )


# July 2019. Storage is in 16-bit words over every entry of the state dict; one operation is one
# multiply-accumulate, one normalized, activated or pooled element, in 16-bit units.
SEED = _version("seed", 2.4, StorageRules(), OperationRules(word_bits=16), ist_published.in_words)

# A day after `seed`. Storage is the same. Normalizations, swishes, the outputs of blocks and
# poolings are now billed in full precision; what remains quantized beside products are a gate's
# squeeze, its sigmoid, and dropout.
IST_2019_07_26 = _version(
    "ist-2019-07-26",
    2.4,
    StorageRules(),
    OperationRules(
        word_bits=16, float_activations="maps", normalization="float", float_pooling=True
    ),
    ist_published.in_words,
)

_FINAL = OperationRules(
    word_bits=32,
    classifier="apart",
    additions="float",
    steps=3,
    normalization="free",
    whole_bits=True,
)

# October 2019, as its README quotes it. Words have 32 bits; products and additions count apart,
# additions in full precision; a swish is three operations; normalizations are folded and free, but
# for a bias; sparse tensors have a bit mask; the classifier's 2.4 bits are billed as 3.
IST_FINAL = _version(
    "ist-final", 3, StorageRules(masks=True, whole_bits=True), _FINAL, ist_published.in_bits
)

# The score that the organizers verified, 0.3772: as `ist-final`, but all activation functions in
# full precision (README of December 2019).
LEADERBOARD = _version(
    "leaderboard",
    3,
    StorageRules(masks=True, whole_bits=True),
    replace(_FINAL, float_activations="all"),
    ist_published.in_bits,
)
