"""The pictures of a report as PNG files, for a slide or a paper: those of its page, no others."""

from __future__ import annotations

import importlib.util
import re
from html import unescape
from pathlib import Path

from micronet.reporting.style import of_pictures
from micronet.runs.checkpoint import write_atomically
from micronet.utils.errors import UserError

_ZOOM = 3.0
_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
_PARTS = re.compile(
    r"<h(?P<level>[23])>(?P<heading>.*?)</h[23]>"
    r'|<svg role="img" aria-label="(?P<title>[^"]*)".*?</svg>',
    re.DOTALL,
)


def require_package() -> None:
    """Ask for what draws SVG before a report is made.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("--png needs a package: pip install 'micronet[png]'")


def pictures(page: str) -> dict[str, str]:
    """Return the pictures of a page as SVG documents by file name, in the page's order.

    A name has the headings that the picture stands under: the run, and what it is of.
    """
    found: dict[str, str] = {}
    run = section = ""
    for part in _PARTS.finditer(page):
        if part["level"] == "2":
            run, section = part["heading"], ""
        elif part["level"] == "3":
            section = part["heading"]
        else:
            names = map(_slug, (run, section, part["title"]))
            name = "-".join([f"{len(found) + 1:03}", *filter(None, names)])
            found[f"{name}.png"] = part[0].replace("<svg ", f"<svg {_NAMESPACE} ", 1)
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", unescape(text).lower()).strip("-")[-80:]


def write(page: str, folder: Path) -> int:
    """Draw every picture of a page into a folder; return their number.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    _require_font()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {str(folder)!r}: {error.strerror}") from None
    drawn = pictures(page)
    for name, svg in drawn.items():
        write_atomically(folder / name, draw(svg))
    return len(drawn)


def draw(svg: str) -> bytes:
    """Return an SVG document as a PNG file of three pixels a unit."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg, background="#ffffff", zoom=_ZOOM, style_sheet=of_pictures()
    )
    return bytes(png)


def _require_font() -> None:
    """Stop before pictures without a word: where no font is found, text is left out.

    Raises:
        UserError: this machine has none of the fonts.
    """
    head = f'<svg {_NAMESPACE} viewBox="0 0 60 20">'
    if draw(f'{head}<text x="5" y="15">micronet</text></svg>') == draw(f"{head}</svg>"):
        raise UserError("--png finds no font to write with: install DejaVu Sans")
