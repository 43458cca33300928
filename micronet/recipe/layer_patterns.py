"""Which layers a user's names and patterns mean."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError, nearest

# Marks a pattern as a regular expression.
REGEX = "re:"


def match_layers(
    names: Iterable[str], patterns: Mapping[str, Sequence[str]], path: str
) -> dict[str, str]:
    """Assign each layer name to the first list of patterns that means it.

    A pattern is an exact module name, a shell glob, or ``re:`` and a regular expression of the
    whole name; an exact name beats any other, wherever it stands (as in Distiller's overrides,
    whose users expect it).

    Args:
        names: the model's layers.
        patterns: lists of patterns by the key that they stand under, such as
            ``prune.groups[0].layers``.
        path: the file that the keys stand in, for messages.

    Returns:
        The key of the list for every layer that is in one.

    Raises:
        UserError: a pattern means no layer at all, or is no regular expression.
    """
    names = list(names)
    assigned: dict[str, str] = {}
    every = [(key, pattern) for key, group in patterns.items() for pattern in group]
    for key, pattern in every:
        if pattern in names:
            assigned.setdefault(pattern, key)
    for key, pattern in every:
        for name in layers_meant(names, pattern, f"{line_of(path, key)}: {key}"):
            assigned.setdefault(name, key)
    return assigned


def assign_layers(
    names: Mapping[str, Sequence[str]],
    patterns: Mapping[str, Sequence[str]],
    path: str,
    treatment: Callable[[str], object],
) -> dict[str, str]:
    """Assign layers of several names each, any of which a pattern may mean, as ``match_layers``.

    Args:
        names: every name of each layer, by the one that it goes by.
        patterns: as in ``match_layers``.
        path: as in ``match_layers``.
        treatment: what the list under a key does to a layer; equal where two do the same.

    Returns:
        The key of the list for every layer that is in one.

    Raises:
        UserError: as in ``match_layers``, or lists that do not do the same name one layer by two
            of its names.
    """
    by_name = match_layers([n for own in names.values() for n in own], patterns, path)
    exact = {pattern for group in patterns.values() for pattern in group}
    assigned = {}
    for layer, own in names.items():
        found = [name for name in own if name in by_name]
        found = [name for name in found if name in exact] or found
        for name in found[1:]:
            keys = by_name[found[0]], by_name[name]
            if treatment(keys[0]) != treatment(keys[1]):
                raise UserError(
                    f"{line_of(path, keys[1])}: {found[0]!r} and {name!r} are names of one weight, "
                    f"of which {keys[0]} and {keys[1]} want different things"
                )
        if found:
            assigned[layer] = by_name[found[0]]
    return assigned


def layers_meant(names: Collection[str], pattern: str, where: str) -> list[str]:
    """Return the layers that a name or pattern means, in the order of ``names``.

    Args:
        names: the model's layers.
        pattern: as in ``match_layers``.
        where: how a message begins.

    Raises:
        UserError: there is none, or it is no regular expression.
    """
    if pattern in names:
        return [pattern]
    if pattern.startswith(REGEX):
        found = _matching(names, pattern.removeprefix(REGEX), where)
    else:
        found = fnmatch.filter(names, pattern)
    if not found:
        raise UserError(f"{where}: {pattern!r} is no layer{_nearest(pattern, names)}")
    return found


def _matching(names: Iterable[str], expression: str, where: str) -> list[str]:
    try:
        whole = re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{where}: {expression!r} is no regular expression: {error}") from None
    return [name for name in names if whole.fullmatch(name)]


def _nearest(pattern: str, names: Iterable[str]) -> str:
    """Return what was most likely meant: a layer, or all the layers of a part of the network."""
    if pattern.startswith(REGEX):
        return ""
    parts = {name[:end] for name in names for end, sign in enumerate(name) if sign == "."}
    return nearest(pattern, [*names, *(f"{part}.*" for part in sorted(parts))])
