"""Distiller's quantizers, as the ``quantize`` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micronet.recipe.distiller import common
from micronet.recipe.distiller.common import error, no_counterpart
from micronet.recipe.layer_patterns import REGEX
from micronet.utils.errors import nearest

_QUANTIZER = "QuantAwareTrainRangeLinearQuantizer"
_KEYS = (
    "class",
    "bits_activations",
    "bits_weights",
    "bits_bias",
    "overrides",
    "mode",
    "ema_decay",
    "per_channel_wts",
    "quantize_inputs",
    "num_bits_inputs",
)
_OVERRIDE_KEYS = tuple(key for key in _KEYS if key not in ("class", "overrides"))
# Classes without a counterpart.
_ROWS = {
    "PostTrainLinearQuantizer": common.POST_TRAINING,
    **dict.fromkeys(
        ("DorefaQuantizer", "WRPNQuantizer", "PACTQuantizer", "NCFQuantAwareTrainQuantizer"),
        common.OTHER_QUANTIZERS,
    ),
}


def check_class(settings: Mapping[str, Any], where: str, path: str) -> None:
    """Hold a quantizer to the class that has a counterpart.

    Raises:
        UserError: it is of another class.
    """
    kind = settings["class"]
    if kind in _ROWS:
        problem = f"is of class {kind}, which {no_counterpart(_ROWS[kind])}; {_QUANTIZER} has one"
        raise error(path, where, problem)
    if kind != _QUANTIZER:
        hint = nearest(kind, (_QUANTIZER, *_ROWS))
        raise error(path, where, f"is of an unknown class, {kind!r}{hint}")


def quantize_section(
    settings: Mapping[str, Any], start: int, where: str, path: str, notes: list[str]
) -> dict[str, Any]:
    """Return a quantizer as a recipe's section, an entry of ``overrides`` for each of its own.

    Args:
        settings: the quantizer's keys.
        start: first epoch of its policy.
        where: the quantizer's key in the file.
        path: the file.
        notes: what differs is added here.

    Raises:
        UserError: the quantizer is malformed, or has no counterpart.
    """
    check_class(settings, where, path)
    for key in settings:
        if key not in _KEYS:
            raise error(path, f"{where}.{key}", f"is unknown{nearest(str(key), _KEYS)}")
    decay = settings.get("ema_decay", 0.999)
    weights, activations = settings.get("bits_weights", 32), settings.get("bits_activations", 32)
    section: dict[str, Any] = {
        "weights": _bits(weights),
        "activations": _bits(activations, decay),
        "start_epoch": start,
    }
    if rows := _overrides(settings.get("overrides") or {}, decay, f"{where}.overrides", path):
        section["overrides"] = rows
    notes += _notes(settings)
    return section


def _overrides(overrides: object, decay: Any, where: str, path: str) -> list[dict[str, Any]]:
    if not isinstance(overrides, dict):
        raise error(path, where, "is not a mapping")
    rows = []
    for pattern, override in overrides.items():
        if not isinstance(override, dict):
            raise error(path, f"{where}.{pattern}", "is not a mapping")
        for key in override:
            if key not in _OVERRIDE_KEYS:
                hint = nearest(str(key), _OVERRIDE_KEYS)
                raise error(path, f"{where}.{pattern}.{key}", f"is unknown{hint}")
        row: dict[str, Any] = {"layers": [_pattern(str(pattern))]}
        if "bits_weights" in override:
            row["weights"] = _bits(override["bits_weights"])
        if "bits_activations" in override:
            row["activations"] = _bits(override["bits_activations"], decay)
        rows.append(row)
    return rows


def _notes(settings: Mapping[str, Any]) -> list[str]:
    notes = [
        "activations: the inputs of convolutions and linear layers are quantized; Distiller "
        "quantized the outputs of nn.ReLU alone, which EfficientNet has none of",
        "biases stay in float, whatever bits_bias says",
    ]
    if settings.get("mode", "SYMMETRIC") != "ASYMMETRIC_UNSIGNED":
        notes.append("mode: codes are asymmetric and unsigned, with zero exactly on a code")
    if not settings.get("per_channel_wts"):
        notes.append("per_channel_wts: weights always have a range for each output channel")
    return notes


def _bits(bits: object, decay: float | None = None) -> dict[str, Any] | None:
    if bits is None or bits == 32:
        return None
    return {"bits": bits} | ({} if decay is None else {"decay": decay})


def _pattern(expression: str) -> str:
    """Return the pattern of one of Distiller's overrides: a name, or a regular expression."""
    name = common.without_parallel(expression)
    return name if name.replace("_", "").replace(".", "").isalnum() else REGEX + name
