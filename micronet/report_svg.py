"""Small plots as SVG: lines over epochs, bars by layer, histograms. No script, no font, no link.

Colours come from the page by class, so that a dark page has a dark plot; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 480, 240, 52, 28

Line = tuple[str, Sequence[tuple[float, float]]]


def lines(title: str, series: Sequence[Line], unit: str = "") -> str:
    """Return a plot of lines, each a name and its (x, y) points, y in ``unit``."""
    points = [p for _, line in series for p in line if all(map(math.isfinite, p))]
    if not points:
        return ""
    (x0, x1), (y0, y1) = (_span([p[i] for p in points]) for i in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 12)
        return across, 30 + (1 - (y - y0) / (y1 - y0)) * (HEIGHT - 30 - BOTTOM)

    parts = [_head(title, WIDTH, HEIGHT + 18 * ((len(series) + 1) // 2))]
    for step in range(5):
        value = y0 + (y1 - y0) * step / 4
        _, y = at(x0, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 12}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.3g}{unit}", "end"))
    for value in (x0, x1):
        parts.append(_text(at(value, y0)[0], HEIGHT - 8, f"{value:g}", "middle"))
    for index, (name, line) in enumerate(series):
        good = [at(*p) for p in line if all(map(math.isfinite, p))]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in good)
        parts.append(f'<polyline class="line c{index % 8}" points="{drawn}"/>')
        parts += [
            f'<circle class="dot c{index % 8}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in good
        ]
        x, y = LEFT + (index % 2) * 210, HEIGHT + 12 + 18 * (index // 2)
        parts.append(f'<path class="line c{index % 8}" d="M{x} {y - 4}h18"/>')
        parts.append(_text(x + 24, y, name, "start"))
    return "\n".join([*parts, "</svg>"])


def bars(title: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> str:
    """Return horizontal stacked bars: a label and one length for each of ``names``."""
    longest = max((sum(values) for _, values in rows), default=0.0) or 1.0
    labels, height = 210, 44 + 16 * len(rows)
    parts = [_head(title, WIDTH + 120, height)]
    for index, name in enumerate(names):
        parts.append(f'<path class="bar c{index}" d="M{labels + 130 * index} 26h10v10h-10z"/>')
        parts.append(_text(labels + 14 + 130 * index, 35, name, "start"))
    for number, (label, values) in enumerate(rows):
        y, x = 44 + 16 * number, float(labels)
        parts.append(_text(labels - 6, y + 10, label, "end"))
        for index, value in enumerate(values):
            width = value / longest * (WIDTH + 110 - labels)
            parts.append(
                f'<path class="bar c{index}" d="M{x:.1f} {y}h{width:.2f}v12h-{width:.2f}z"/>'
            )
            x += width
    return "\n".join([*parts, "</svg>"])


def histogram(title: str, counts: Sequence[int], low: str, high: str) -> str:
    """Return a small histogram; its tallest bar fills the height, empty ones are not drawn."""
    tallest, width = max(counts, default=0) or 1, 150 / max(len(counts), 1)
    parts = [_head(title, 160, 100, small=True)]
    for index, count in enumerate(counts):
        if count:
            tall = max(count / tallest * 58, 0.7)
            x = 5 + index * width
            parts.append(
                f'<path class="bar c0" d="M{x:.2f} {82 - tall:.2f}h{width * 0.92:.2f}v{tall:.2f}'
                f'h-{width * 0.92:.2f}z"/>'
            )
    parts += [_text(5, 95, low, "start"), _text(155, 95, high, "end")]
    return "\n".join([*parts, "</svg>"])


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _head(title: str, width: float, height: float, small: bool = False) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {height:g}">'
        f'<text class="{"small" if small else "title"}" x="5" y="{14 if small else 17}">'
        f"{escape(title)}</text>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
