"""The figures of the 2019 entry (IST) as its scripts printed them, with their rounding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations.records import Op
from micronet.scoring.rules.ist_operations import OperationRules, operations, published_operations
from micronet.scoring.rules.ist_storage import StorageRules, storage
from micronet.scoring.rules.tracks import DEFAULT
from micronet.utils.number_format import fixed


def in_words(
    stored: StorageRules, executed: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]
) -> dict[str, str]:
    """Return what the first scripts printed: whole words and operations, six places of a score."""
    used, dense = _storage(stored, subject)
    return {
        "storage": fixed(used, 0),
        "storage_dense": fixed(dense, 0),
        "storage_ratio": _ratio(used, dense),
        **_operations(executed, subject, ops),
        "score": fixed(_score(used, executed, subject, ops), 6),
    }


def in_bits(
    stored: StorageRules, executed: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]
) -> dict[str, str]:
    """Return what the later scripts printed: parameters, megabytes, operations, four places."""
    used, dense = _storage(stored, subject)
    bytes_each = Fraction(stored.word_bits, 8)
    figures = _operations(executed, subject, ops)
    total = Fraction(figures.pop("math_ops_dense"))
    return {
        "storage_params": fixed(used, 0),
        "storage_mbytes": fixed(used * bytes_each / 10**6, 4),
        "storage_dense_mbytes": fixed(dense * bytes_each / 10**6, 4),
        "storage_ratio": _ratio(used, dense),
        **figures,
        "math_ops_dense_m": fixed(total / 10**6, 4),
        "score": fixed(_score(used, executed, subject, ops), 4),
    }


def _ratio(used: Fraction | int, dense: Fraction) -> str:
    # Of nothing at all there is no ratio; the scripts never met that.
    return fixed(Fraction(used) / dense, 4) if dense else "-"


def _storage(stored: StorageRules, subject: ScoredNetwork) -> tuple[Fraction, Fraction]:
    costs = list(storage(stored, subject))
    zero = Fraction(0)
    return sum((c.used for c in costs), zero), sum((c.dense for c in costs), zero)


def _operations(
    executed: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]
) -> dict[str, str]:
    used = published_operations(executed, subject, ops)
    dense = sum((c.dense for c in operations(executed, subject, ops)), Fraction(0))
    return {
        "math_ops": str(used),
        "math_ops_dense": fixed(dense, 0),
        "math_ops_ratio": _ratio(used, dense),
    }


def _score(
    used: Fraction, executed: OperationRules, subject: ScoredNetwork, ops: Sequence[Op]
) -> Fraction:
    operations = published_operations(executed, subject, ops)
    return used / DEFAULT.baseline_storage + operations / DEFAULT.baseline_operations
