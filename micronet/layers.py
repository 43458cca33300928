"""Which layers a schedule's patterns mean."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from micronet.errors import UserError, nearest


def match_layers(
    names: Iterable[str], patterns: Sequence[Sequence[str]], where: str, path: str
) -> dict[str, int]:
    """Assign each layer name to the first list of patterns that means it.

    A pattern is an exact module name or a shell glob; an exact name beats any glob, wherever it
    stands (as in Distiller's overrides, whose users expect it).

    Args:
        names: the model's layers.
        patterns: one list of patterns per group.
        where: the YAML key of the groups, for messages.
        path: the schedule's file, for messages.

    Returns:
        The index of the group for every layer that is in one.

    Raises:
        UserError: a pattern means no layer at all.
    """
    names = list(names)
    assigned: dict[str, int] = {}
    globs: list[tuple[int, str]] = []
    for index, group in enumerate(patterns):
        for pattern in group:
            if pattern in names:
                assigned.setdefault(pattern, index)
            else:
                globs.append((index, pattern))
    for index, pattern in globs:
        found = fnmatch.filter(names, pattern)
        if not found:
            hint = nearest(pattern, names)
            key = f"{where}[{index}].layers"
            raise UserError(f"{path}: {key} names {pattern!r}, which is no layer{hint}")
        for name in found:
            assigned.setdefault(name, index)
    return assigned
