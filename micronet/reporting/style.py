"""How a report looks: one style sheet for its page, and the part of it that pictures need."""

from __future__ import annotations

_LIGHT = {"fore": "#1c2430", "back": "#fff", "soft": "#667", "rule": "#ccd3dc"}
_DARK = {"fore": "#dde3ea", "back": "#14181d", "soft": "#98a2ad", "rule": "#333b45"}
COLOURS = ("#3b7dd8", "#d08a3c", "#3fa66b", "#c2506e", "#8265c9", "#4aa3b5", "#9a8f32", "#888")

# A picture that stands alone has no browser that knows what sans-serif is here.
_FONTS = '"DejaVu Sans", "Liberation Sans", "Noto Sans", Arial, Helvetica, sans-serif'

_PAGE = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 1200px; background: var(--back);
  color: var(--fore); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; }
h1 { font-size: clamp(1.3rem, 5vw, 2rem); }
.plots, .small-plots, .scroll { margin: 1rem 0; }
.plots { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
.small-plots { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; max-width: 480px; height: auto; display: block; }
.missing { border-left: 4px solid #d08a3c; padding-left: .7rem; color: var(--soft); }
"""

_PICTURES = """
svg text { fill: var(--soft); font-family: system-ui, sans-serif; font-size: 12px; }
svg .title { fill: var(--fore); font-size: 14px; font-weight: 600; }
svg .small { font-size: 10px; }
.grid { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 1.6; }
.dashed { stroke-dasharray: 5 4; }
.wide { stroke-width: 6; opacity: .35; }
""" + "".join(
    f".line.c{i} {{ stroke: {c}; }} .dot.c{i}, .bar.c{i} {{ fill: {c}; }}\n"
    for i, c in enumerate(COLOURS)
)


def of_page() -> str:
    """Return the style sheet of a page, light or dark as its reader has it."""
    dark = _variables(_DARK)
    return (
        f":root {{ color-scheme: light dark; {_variables(_LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_PAGE}{_PICTURES}"
    )


def of_pictures() -> str:
    """Return the style sheet of a picture that stands alone, on a light ground, in plain CSS."""
    sheet = _PICTURES.replace("system-ui, sans-serif", _FONTS)
    for name, color in _LIGHT.items():
        sheet = sheet.replace(f"var(--{name})", color)
    return sheet


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())
