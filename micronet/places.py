"""Where in a YAML file a key stands, so that an error can name its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from micronet.errors import UserError


class YamlPath(str):
    """A file's path that also knows the line of each dotted key, such as ``prune.groups[0]``."""

    lines: dict[str, int]

    def __new__(cls, path: str, lines: dict[str, int] | None = None) -> YamlPath:
        """Make the path; ``lines`` count from 1."""
        made = super().__new__(cls, path)
        made.lines = lines or {}
        return made


def place(path: str, where: str) -> str:
    """Return ``file:line`` for a key, or for the nearest key around it; the file if unknown."""
    lines = path.lines if isinstance(path, YamlPath) else {}
    while where and where not in lines:
        where = where[: max(where.rfind("."), where.rfind("["), 0)]
    return f"{path}:{lines[where]}" if where in lines else str(path)


def read_yaml(path: str, kind: str) -> tuple[Any, YamlPath]:
    """Return a file's plain data, and its path with lines; nothing in it is executed.

    Args:
        path: the file.
        kind: what it is to the user, for messages, such as ``schedule``.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {kind} {path!r}: {reason}") from None
    try:
        document = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # PyYAML raises the last two for values such as a date of month 99 or an unhashable key.
        problem = " ".join(str(error).split())
        raise UserError(f"{kind} {path!r} is not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{kind} {path!r} is not valid YAML: it is nested too deeply") from None
    lines: dict[str, int] = {}
    _collect(node, "", lines, set())
    return document, YamlPath(path, lines)


def _collect(node: Any, where: str, lines: dict[str, int], open_nodes: set[int]) -> None:
    """Note the line of every key below a node; a node that holds itself is entered once."""
    if id(node) in open_nodes:
        return
    open_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{where}.{key.value}" if where else str(key.value)
            lines.setdefault(name, key.start_mark.line + 1)
            _collect(value, name, lines, open_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            name = f"{where}[{index}]"
            lines.setdefault(name, value.start_mark.line + 1)
            _collect(value, name, lines, open_nodes)
