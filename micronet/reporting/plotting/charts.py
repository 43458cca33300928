"""Small plots as SVG: lines over epochs, bars by layer, histograms. No script, no font, no link.

Colors come from the page by class, so that a dark page has a dark plot; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple, TypeAlias

from micronet.reporting.plotting.axis import label, ticks

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 400, 220, 58, 30, 28
LABELS, ROW = 170, 17

Point: TypeAlias = tuple[float, float]


class Line(NamedTuple):
    """One line of a plot: a color by number, and a style: plain, dashed or wide."""

    name: str
    points: Sequence[Point]
    color: int = 0
    style: str = "plain"


def lines(title: str, series: Sequence[Line], unit: str = "", logarithmic: bool = False) -> str:
    """Return a plot of lines over epochs, y in ``unit``; "" where there is no number to draw."""
    points = [p for line in series for p in line.points if all(map(math.isfinite, p))]
    if not points:
        return ""
    logarithmic = logarithmic and min(y for _, y in points) > 0
    marks = ticks(min(y for _, y in points), max(y for _, y in points), logarithmic)
    at = _scale([x for x, _ in points], marks, logarithmic)
    parts = [_head(title, WIDTH, HEIGHT + 18 * ((len(series) + 1) // 2))]
    for mark in marks:
        y = at(0, mark)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 12}"/>')
        parts.append(_text(LEFT - 6, y + 4, label(mark, marks) + unit, "end"))
    for x in dict.fromkeys((min(x for x, _ in points), max(x for x, _ in points))):
        parts.append(_text(at(x, marks[0])[0], HEIGHT - 10, f"{x:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - 12) / 2, HEIGHT - 10, "epoch", "middle"))
    for index, line in enumerate(series):
        parts += _drawn(line, at)
        x, y = LEFT + (index % 2) * 170, HEIGHT + 10 + 18 * (index // 2)
        parts.append(f'<path class="{_class(line)}" d="M{x} {y - 4}h18"/>')
        parts.append(_text(x + 24, y, _short(line.name, 23), "start"))
    return "\n".join([*parts, "</svg>"])


def _scale(
    across: Sequence[float], marks: Sequence[float], logarithmic: bool
) -> Callable[[float, float], Point]:
    """Return the map from a point to its place in the picture."""
    x0, x1 = min(across), max(across)
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5
    height = math.log10 if logarithmic else float
    y0, y1 = height(marks[0]), height(marks[-1])

    def at(x: float, y: float) -> Point:
        share = (x - x0) / (x1 - x0), (height(y) - y0) / (y1 - y0)
        return LEFT + share[0] * (WIDTH - LEFT - 12), HEIGHT - BOTTOM - share[1] * (
            HEIGHT - TOP - BOTTOM
        )

    return at


def _drawn(line: Line, at: Callable[[float, float], Point]) -> list[str]:
    good = [at(*p) for p in line.points if all(map(math.isfinite, p))]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in good)
    parts = [f'<polyline class="{_class(line)}" points="{drawn}"/>']
    if line.style == "plain" or len(good) == 1:
        dot = f'<circle class="dot c{line.color % 8}"'
        parts += [f'{dot} cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in good]
    return parts


def _class(line: Line) -> str:
    return f"line c{line.color % 8}" + (f" {line.style}" if line.style != "plain" else "")


def bars(title: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> str:
    """Return horizontal stacked bars with their shares of all: a part for each of ``names``."""
    longest = max((sum(values) for _, values in rows), default=0.0) or 1.0
    total = sum(sum(values) for _, values in rows) or 1.0
    parts = [_head(title, WIDTH, 50 + ROW * len(rows))]
    for index, name in enumerate(names if len(names) > 1 else ()):
        parts.append(f'<path class="bar c{index}" d="M{LABELS + 100 * index} 28h10v10h-10z"/>')
        parts.append(_text(LABELS + 14 + 100 * index, 37, name, "start"))
    for number, (name, values) in enumerate(rows):
        y, x = 46 + ROW * number, float(LABELS)
        parts.append(_text(LABELS - 6, y + 11, _short(name, 27), "end"))
        for index, value in enumerate(values):
            width = value / longest * (WIDTH - LABELS - 48)
            parts.append(
                f'<path class="bar c{index}" d="M{x:.1f} {y}h{width:.2f}v13h-{width:.2f}z"/>'
            )
            x += width
        parts.append(_text(x + 4, y + 11, f"{100 * sum(values) / total:.1f} %", "start"))
    return "\n".join([*parts, "</svg>"])


def spans(title: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Return a bar from a low to a high number for each row, all on one scale with zero marked."""
    low = min([0.0, *(row[1] for row in rows)])
    width = max([0.0, *(row[2] for row in rows)]) - low or 1.0
    parts = [_head(title, WIDTH, 34 + ROW * len(rows))]

    def at(value: float) -> float:
        return LABELS + (value - low) / width * (WIDTH - LABELS - 12)

    for number, (name, start, end) in enumerate(rows):
        y = 30 + ROW * number
        parts.append(_text(LABELS - 6, y + 11, _short(name, 27), "end"))
        wide = at(end) - at(start)
        parts.append(f'<path class="bar c0" d="M{at(start):.1f} {y}h{wide:.2f}v13h-{wide:.2f}z"/>')
    parts.append(f'<path class="grid" d="M{at(0):.1f} 26V{32 + ROW * len(rows)}"/>')
    return "\n".join([*parts, "</svg>"])


def histogram(title: str, counts: Sequence[int], low: str, high: str, note: str = "") -> str:
    """Return a small histogram; its tallest bar fills the height, empty ones are not drawn.

    The note stands below the ends ``low`` and ``high``.
    """
    tallest, width = max(counts, default=0) or 1, 150 / max(len(counts), 1)
    parts = [_head(title, 160, 114 if note else 100, small=True)]
    for index, count in enumerate(counts):
        if count:
            tall = max(count / tallest * 58, 0.7)
            x = 5 + index * width
            parts.append(
                f'<path class="bar c0" d="M{x:.2f} {82 - tall:.2f}h{width * 0.92:.2f}v{tall:.2f}'
                f'h-{width * 0.92:.2f}z"/>'
            )
    parts += [_text(5, 95, low, "start"), _text(155, 95, high, "end")]
    if note:
        parts.append(_text(80, 109, note, "middle"))
    return "\n".join([*parts, "</svg>"])


def _short(text: str, most: int) -> str:
    """Return the end of a long name, which tells it from others."""
    return text if len(text) <= most else "…" + text[-(most - 1) :]


def _head(title: str, width: float, height: float, small: bool = False) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {height:g}">'
        f'<text class="{"small" if small else "title"}" x="5" y="{14 if small else 17}">'
        f"{escape(_short(title, 27) if small else title)}</text>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
