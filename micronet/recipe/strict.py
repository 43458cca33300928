"""Plain data into frozen dataclasses and back; what does not fit is an error that names its key."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any

from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError, nearest


class Inherit(enum.Enum):
    """Marks a precision that an override does not mention, as opposed to one it sets to null."""

    INHERIT = "inherit"


def to_plain(value: Any) -> Any:
    """Turn a dataclass into plain data that ``build`` reads back; what is not said is left out."""
    if dataclasses.is_dataclass(value):
        fields = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: to_plain(item) for f, item in fields if _is_said(f, item)}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value


def _is_said(field: dataclasses.Field[Any], value: object) -> bool:
    return value not in (Inherit.INHERIT, ()) and not (value is None and field.default is None)


# What is looked for in one section and stands in another.
_BELONGS = {
    ("weights", "offset"): ", which activations have",
    ("activations", "symmetric"): ", which weights have",
}


def build(cls: type, mapping: object, where: str, path: str) -> Any:
    """Build the dataclass ``cls`` from ``mapping``; ``where`` is the dotted key so far.

    Raises:
        UserError: a key is unknown or missing, a value is not of its field's type, or ``cls``
            takes no such value.
    """
    if not isinstance(mapping, dict):
        raise UserError(
            f"{line_of(path, where)}: {where or 'the file'} must be a mapping, "
            f"not {_short(mapping)}"
        )
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in mapping:
        if key not in known:
            hint = _BELONGS.get((where.rpartition(".")[2], str(key))) or nearest(str(key), known)
            key = _join(where, key)
            raise UserError(f"{line_of(path, key)}: unknown key {key!r}{hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in known.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], _join(where, name), path)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{line_of(path, where)}: key {_join(where, name)!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{line_of(path, where)}: {where or 'the file'}: {error}") from None


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: object, where: str, path: str) -> Any:
    """Check ``value`` against a type hint and convert it."""
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _convert_optional(hint, value, where, path)
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise UserError(
                f"{line_of(path, where)}: {where} must be a list with at least one entry"
            )
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{where}[{i}]", path) for i, v in enumerate(value))
    if origin is dict:
        return _convert_mapping(hint, value, where, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, path)
    return _convert_scalar(hint, value, where, path)


def _convert_mapping(hint: Any, value: object, where: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{line_of(path, where)}: {where} must be a mapping, not {_short(value)}")
    item = typing.get_args(hint)[1]
    shown = {key: key if str(key).isprintable() else repr(key) for key in value}
    return {key: _convert(item, v, _join(where, shown[key]), path) for key, v in value.items()}


def _convert_optional(hint: Any, value: object, where: str, path: str) -> Any:
    choices = [t for t in typing.get_args(hint) if t is not Inherit]
    if value is None and type(None) in choices:
        return None
    choices = [t for t in choices if t is not type(None)]
    if isinstance(value, list):
        # Of a number and a list of them, the list.
        choices.sort(key=lambda choice: typing.get_origin(choice) is not tuple)
    return _convert(choices[0], value, where, path)


def _convert_scalar(hint: type, value: object, where: str, path: str) -> object:
    whole_for_real = hint is float and isinstance(value, int) and not isinstance(value, bool)
    if whole_for_real:
        return _as_float(typing.cast(int, value), where, path)
    if type(value) is not hint:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
        raise UserError(f"{line_of(path, where)}: {where} must be {kind}, not {_as_written(value)}")
    return value


def _as_float(value: int, where: str, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{line_of(path, where)}: {where} is too large a number") from None


def _as_written(value: object) -> str:
    """Return a value as YAML spells it, whose yes and no are true and false, too."""
    return str(value).lower() if isinstance(value, bool) else _short(value)


def _short(value: object) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
