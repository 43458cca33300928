"""YAML files as plain data, and where in the file each key stands, so that an error names its line.

Numbers are those of YAML 1.2: ``1e-4`` is one, and ``2:4`` is text, where YAML 1.1 has a text and
the number 124.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from micronet.utils.errors import UserError

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_NUMBERS = {
    _INT: re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    _FLOAT: re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class YamlPath(str):
    """A file's path that also knows the line of each dotted key, such as ``prune.groups[0]``."""

    lines: dict[str, int]

    def __new__(cls, path: str, lines: dict[str, int] | None = None) -> YamlPath:
        """Make the path; ``lines`` count from 1."""
        made = super().__new__(cls, path)
        made.lines = lines or {}
        return made


def line_of(path: str, where: str) -> str:
    """Return ``file:line`` for a key, or for the nearest key around it; the file if unknown."""
    lines = path.lines if isinstance(path, YamlPath) else {}
    while where and where not in lines:
        where = where[: max(where.rfind("."), where.rfind("["), 0)]
    return f"{path}:{lines[where]}" if where in lines else str(path)


# What YAML 1.1 reads otherwise; its dates are text to a recipe.
_OTHERWISE = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """Builds plain data and nothing else."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERWISE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, list("-+0123456789."))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _real(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", loader.construct_scalar(node).lower()))


_Loader.add_constructor(_INT, _whole)
_Loader.add_constructor(_FLOAT, _real)


def read_yaml(path: str, kind: str) -> tuple[Any, YamlPath]:
    """Return a file's plain data, and its path with lines; nothing in it is executed.

    Args:
        path: the file.
        kind: what it is to the user, for messages, such as ``schedule``.

    Raises:
        UserError: it cannot be read, is not YAML, or gives a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {kind} {path!r}: {reason}") from None
    try:
        document = yaml.load(text, Loader=_Loader)
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # PyYAML raises the last two for values such as an unhashable key.
        problem = " ".join(str(error).split())
        raise UserError(f"{kind} {path!r} is not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{kind} {path!r} is not valid YAML: it is nested too deeply") from None
    known = YamlPath(path)
    _collect(node, "", known, set())
    return document, known


def _collect(node: Any, where: str, path: YamlPath, open_nodes: set[int]) -> None:
    """Note the line of every key below a node; a node that holds itself is entered once."""
    if id(node) in open_nodes:
        return
    open_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        _check_once(node, where, path)
        for key, value in node.value:
            name = f"{where}.{key.value}" if where else str(key.value)
            path.lines.setdefault(name, key.start_mark.line + 1)
            _collect(value, name, path, open_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            name = f"{where}[{index}]"
            path.lines.setdefault(name, value.start_mark.line + 1)
            _collect(value, name, path, open_nodes)


def _check_once(node: yaml.MappingNode, where: str, path: YamlPath) -> None:
    """Hold a mapping to different keys: of equal ones YAML takes the last without a word."""
    seen: dict[tuple[str, str], int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        line, known = key.start_mark.line + 1, (key.tag, key.value)
        if known in seen:
            name = f"{where}.{key.value}" if where else key.value
            raise UserError(f"{path}:{line}: {name} is given twice, in line {seen[known]} first")
        seen[known] = line
