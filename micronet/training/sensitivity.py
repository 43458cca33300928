"""``python -m micronet.train sensitivity``: what pruning each layer alone does to accuracy.

Writes ``sensitivity.csv`` (all that was measured), ``search.csv`` (what ``micronet.score --search``
reads: points of top-1 lost) and ``sensitivity.svg``. Source: Han et al. 2015, section 4.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from micronet.models import architectures, shared_layers
from micronet.pruning import prune
from micronet.quantization.plain_weights import check_weight
from micronet.recipe.layer_patterns import assign_layers
from micronet.recipe.schema import PruneGroup
from micronet.runs.checkpoint import write_atomically
from micronet.training.evaluation import Accuracy, evaluate
from micronet.utils.errors import UserError

KINDS = ("element", "filter", "channel")
Judge: TypeAlias = Callable[[nn.Module, Iterable[tuple[Tensor, Tensor]]], Accuracy]


@dataclass(frozen=True)
class Point:
    """Accuracy of the network with one layer pruned to a sparsity."""

    layer: str
    sparsity: float
    accuracy: Accuracy


def scan(
    model: nn.Module,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    patterns: Sequence[str],
    kind: str,
    levels: Sequence[float],
    judge: Judge = evaluate,
) -> tuple[Accuracy, list[Point]]:
    """Prune one layer after the other to every level; the model ends as it began.

    Layers that hold one weight are pruned together, under the first one's name.

    Args:
        model: the trained network.
        batches: a pass over the images to evaluate on.
        patterns: names or shell patterns of layers.
        kind: what is pruned as one: element, filter (output channel) or channel (input channel).
        levels: sparsities in (0, 1).
        judge: ``evaluate``, with the order of images that the network takes.

    Returns:
        The accuracy of the network as it is, and a point for every layer and level.

    Raises:
        UserError: a pattern means no layer, or one whose weight is computed.
    """
    layers, names = architectures.layers(model), shared_layers.weight_names(model)
    chosen = assign_layers(names, {"--layers": patterns}, "command line", lambda key: key)
    for name in chosen:
        check_weight(name, layers[name], "pruned", hint="; leave it out of --layers")
    before = judge(model, batches())
    points = []
    for name in chosen:
        for level in levels:
            with torch.no_grad():
                found = _with_pruned(layers[name], kind, level, lambda: judge(model, batches()))
            points.append(Point(name, level, found))
        worst = points[-1]
        print(f"{name}: top-1 {worst.accuracy.top1:.2f} at {100 * worst.sparsity:g} %", flush=True)
    return before, points


def _with_pruned(
    layer: architectures.Layer, kind: str, level: float, accuracy: Callable[[], Accuracy]
) -> Accuracy:
    whole = layer.weight.detach().clone()
    ranked = prune.Ranked(layer, layer.weight.detach())
    bits = prune.masks_together({"": ranked}, PruneGroup(("*",), structure=kind), level)[""]
    try:
        keep = kernels.unpack_bits(bits, whole.numel()).view(whole.shape)
        layer.weight.masked_fill_(~keep, 0.0)
        return accuracy()
    finally:
        layer.weight.copy_(whole)


def sparsities_of(text: str) -> list[float]:
    """Read ``START:STOP:STEP`` (stop included) or a list ``0.5,0.9``.

    Raises:
        UserError: a level is not in (0, 1), or the text is neither.
    """
    try:
        if ":" in text:
            start, stop, step = map(float, text.split(":"))
            count = math.floor((stop - start) / step + 1e-9) + 1
            levels = [round(start + i * step, 10) for i in range(min(count, 1000))]
        else:
            levels = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"--sparsities {text!r} is neither START:STOP:STEP nor a list") from None
    if not levels or not all(0 < level < 1 for level in levels):
        raise UserError(f"--sparsities {text!r} holds none, or one outside (0, 1)")
    return levels


def write(out: Path, before: Accuracy, points: Sequence[Point]) -> None:
    """Write the three files into a folder, each whole or not at all.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {str(out)!r}: {error.strerror}") from None
    measured = [("layer", "sparsity", "top1", "top5", "validation_loss")]
    measured += [
        (p.layer, p.sparsity, p.accuracy.top1, p.accuracy.top5, p.accuracy.loss)  # type: ignore[misc]
        for p in points
    ]
    lost = [("layer", "sparsity", "loss")]
    lost += [(p.layer, p.sparsity, max(before.top1 - p.accuracy.top1, 0.0)) for p in points]  # type: ignore[misc]
    write_atomically(out / "sensitivity.csv", _csv(measured).encode())
    write_atomically(out / "search.csv", _csv(lost).encode())
    write_atomically(out / "sensitivity.svg", plot(before, points).encode())


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def plot(before: Accuracy, points: Sequence[Point]) -> str:
    """Return a picture of top-1 over sparsity, one line a layer, as SVG."""
    width, height, left, row = 640, 360, 50, 14
    layers = list(dict.fromkeys(p.layer for p in points))
    tall = max(height, 20 + row * len(layers)) + 40

    def at(sparsity: float, top1: float) -> str:
        return f"{left + sparsity * (width - left):.1f},{10 + (100 - top1) / 100 * height:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 220} {tall}" '
        'font-family="sans-serif" font-size="11">'
    ]
    for top1 in range(0, 101, 20):
        y = 10 + (100 - top1) / 100 * height
        parts.append(f'<path d="M{left} {y}H{width}" stroke="#ccc"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{top1} %</text>')
    for share in range(0, 101, 20):
        x = left + share / 100 * (width - left)
        parts.append(f'<text x="{x}" y="{height + 26}" text-anchor="middle">{share} %</text>')
    for index, name in enumerate(layers):
        color = f"hsl({360 * index // len(layers)} 70% 40%)"
        own = [at(p.sparsity, p.accuracy.top1) for p in points if p.layer == name]
        line = " ".join([at(0.0, before.top1), *own])
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}"/>')
        place = f'x="{width + 12}" y="{20 + row * index}" fill="{color}"'
        parts.append(f"<text {place}>{html.escape(name)}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"
