"""A picture of where a score comes from: one bar for each kind of cost, each begun where the last
ended. Plain SVG, the same bytes for the same score."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from html import escape
from pathlib import Path

from micronet.runs.checkpoint import write_atomically
from micronet.scoring.count import Score, shares
from micronet.utils.number_format import fixed

# Pixels: of the whole, of the labels left of the bars, of the numbers right of them.
_WIDTH, _LABELS, _NUMBERS = 820, 230, 90
_ROW, _BAR, _TITLE = 24, 16, 44
_STORED, _EXECUTED, _TOTAL = "#4878a8", "#d08a3c", "#555555"


def write_waterfall(path: str, results: Sequence[Score]) -> None:
    """Write the picture of one or more scores, one below the other on one scale.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomically(Path(path), waterfall(results).encode())


def waterfall(results: Sequence[Score]) -> str:
    """Return the picture as SVG text."""
    longest = max((result.score for result in results), default=Fraction(1)) or Fraction(1)
    parts: list[str] = []
    top = 0
    for result in results:
        drawn, height = _one(result, longest, top)
        parts += drawn
        top += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" '
        f'viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" font-size="12">'
    )
    background = f'<rect width="{_WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _one(result: Score, longest: Fraction, top: int) -> tuple[list[str], int]:
    """Return the elements of one score and their height in pixels."""
    title = f"{result.subject.arch}, {result.subject.name}"
    rules = f"rules {result.rules.name}, track {result.track.name}"
    parts = [
        f'<text x="10" y="{top + 18}" font-weight="bold">{escape(title)}</text>',
        f'<text x="10" y="{top + 34}" fill="#555555">{escape(rules)}</text>',
    ]
    bars = [(kind, share) for kind, share in shares(result) if share]
    y, begin = top + _TITLE, Fraction(0)
    for kind, share in bars:
        color = _STORED if kind.startswith("stored ") else _EXECUTED
        parts += _bar(kind, begin, share, longest, y, color)
        begin += share
        y += _ROW
    parts += _bar("score", Fraction(0), result.score, longest, y, _TOTAL)
    return parts, y + _ROW + 10 - top


def _bar(
    label: str, begin: Fraction, share: Fraction, longest: Fraction, y: int, color: str
) -> list[str]:
    scale = (_WIDTH - _LABELS - _NUMBERS) / longest
    x, width = _LABELS + begin * scale, share * scale
    middle = y + _BAR - 4
    return [
        f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{fixed(x, 2)}" y="{y}" width="{fixed(width, 2)}" height="{_BAR}" '
        f'fill="{color}"/>',
        f'<text x="{fixed(x + width + 6, 2)}" y="{middle}">{fixed(share, 6)}</text>',
    ]
