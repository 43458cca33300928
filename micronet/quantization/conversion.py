"""What a conversion to few bits makes of each layer, and why some of it stays in float."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from torch import nn

from micronet.models import architectures, shared_layers
from micronet.quantization.precision import LayerBits
from micronet.recipe.schema import IMAGE

INTEGER, ROUNDED, FLOAT = "integer", "rounded float", "float"
BETWEEN = (
    "between layers normalization, activation functions, gates, residual additions and attention "
    "compute in float32; each layer rounds its own input"
)


@dataclass(frozen=True)
class LayerReport:
    """One convolution or linear layer.

    Attributes:
        layer: its name, the first where its network has it under several.
        kind: what it is, its channels and its kernel.
        weight_levels: number of levels of a weight, None in float; likewise the input's.
        arithmetic: "integer": products of integers; "rounded float": what is rounded meets what is
            not; "float".
        reason: why not "integer"; empty where it is.
        other_names: those that it has besides ``layer``, with spaces between.
        input_step: where the step of its input comes from: "range", "learned" or "image"; empty in
            float.
    """

    layer: str
    kind: str
    weights: int
    weight_levels: int | None
    input_levels: int | None
    arithmetic: str
    reason: str
    other_names: str = ""
    input_step: str = ""


def report(model: nn.Module, bits: Mapping[str, LayerBits]) -> list[LayerReport]:
    """Return what becomes of every layer of a network, in module order."""
    names = shared_layers.all_names(model)
    layers = architectures.layers(model).items()
    return [_row(name, layer, bits[name], names[name][1:]) for name, layer in layers]


def _row(
    name: str, layer: architectures.Layer, bits: LayerBits, others: Sequence[str]
) -> LayerReport:
    left = bits.left_because or "the schedule leaves it in float"
    reason = left if bits.is_float else bits.why_float(layer.weight[0].numel()) or ""
    arithmetic = FLOAT if bits.is_float else ROUNDED if reason else INTEGER
    return LayerReport(
        name,
        _kind(layer),
        layer.weight.numel(),
        bits.weight_levels,
        bits.activation_levels,
        arithmetic,
        reason,
        " ".join(others),
        "" if bits.activation_bits is None else bits.activation_step,
    )


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        y, x = layer.kernel_size
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        grouped = f" in {layer.groups} groups" if layer.groups > 1 else ""
        what = "depthwise" if depthwise else f"convolution{grouped}"
        return f"{y}x{x} {what} {layer.in_channels} -> {layer.out_channels}"
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features} -> {layer.out_features}"
    return type(layer).__name__


def as_csv(rows: Sequence[LayerReport]) -> str:
    """Return all rows as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(LayerReport)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def as_text(rows: Sequence[LayerReport]) -> str:
    """Return the totals, and every layer that does not compute in integers with its reason."""
    integer = [row for row in rows if row.arithmetic == INTEGER]
    share = sum(row.weights for row in integer) / max(sum(row.weights for row in rows), 1)
    lines = [
        f"{len(integer)} of {len(rows)} layers, {share:.1%} of their weights, compute in integers"
        f"{_levels(integer)}"
    ]
    others: dict[tuple[str, str], list[LayerReport]] = defaultdict(list)
    for row in rows:
        if row.arithmetic != INTEGER:
            others[row.arithmetic, row.reason].append(row)
    for (arithmetic, reason), alike in others.items():
        names = ", ".join(shared_layers.label([r.layer, *r.other_names.split()]) for r in alike)
        lines.append(f"  {arithmetic}, {reason}{_levels(alike)}: {names}")
    readers = ", ".join(row.layer for row in rows if row.input_step == IMAGE)
    if readers:
        lines.append(f"  images are read as grey values, normalized in the layer: {readers}")
    return "\n".join([*lines, f"  {BETWEEN}"])


def _levels(rows: Sequence[LayerReport]) -> str:
    """Say the levels that rows have, where any of them has some."""
    parts = []
    for operand, field in (("weights", "weight_levels"), ("inputs", "input_levels")):
        found = sorted({levels for row in rows if (levels := getattr(row, field)) is not None})
        if found:
            parts.append(f"{operand} of {' or '.join(map(str, found))} levels")
    return f" ({', '.join(parts)})" if parts else ""
