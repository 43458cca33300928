"""Fractions as text, without loss where that is asked for."""

from __future__ import annotations

from fractions import Fraction


def decimal(value: Fraction) -> str:
    """Write a fraction as a decimal: exactly where it ends, else to six places, half up."""
    if not _ends(value):
        return fixed(value, 6)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return fixed(value, places)


def exact(value: Fraction) -> str:
    """Write a fraction without loss: as a decimal where it ends, else as ``p/q``."""
    return decimal(value) if _ends(value) else str(value)


def fixed(value: Fraction, places: int) -> str:
    """Write a fraction to so many decimal places, rounded half up."""
    whole, digits = divmod(rounded(abs(value) * 10**places), 10**places)
    sign = "-" if value < 0 and (whole or digits) else ""
    return f"{sign}{whole}.{digits:0{places}d}" if places else f"{sign}{whole}"


def share(part: Fraction, whole: Fraction) -> str:
    """Write a part over the whole to four places, ``-`` where there is nothing at all."""
    return f"{float(part / whole):.4f}" if whole else "-"


def rounded(value: Fraction) -> int:
    """Round half up, as the 2019 entry printed its storage."""
    return (2 * value + 1).__floor__() // 2


def _ends(value: Fraction) -> bool:
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


def grid(rows: list[list[str]], left: int = 1) -> str:
    """Write rows of cells under each other, the first ``left`` columns flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def markdown_grid(rows: list[list[str]], left: int = 1) -> str:
    """Write rows of cells as a Markdown table, the first being its head."""
    rule = ["---" if i < left else "--:" for i in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])
