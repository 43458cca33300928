"""``make picture``: the README's picture of results, from the committed JSON of the benchmarks.

Three panels of horizontal bars: the time and the peak memory of a training step of EfficientNet-B1,
each over plain float32 with torch's own SiLU, and the challenge score of resnet20 on CIFAR-10 with
its top-1.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks.harness.machine import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "images" / "results.svg"

# The variants of the training step that are drawn, and what they are to a reader.
STEPS = {
    "micronet": "micronet, 4/4 bits",
    "plain-compiled": "float32, torch.compile",
    "plain-silu": "float32",
    "compiled-qat": "QAT, torch.compile",
    "torch-fused": "QAT, torch's fused operator",
    "distiller": "QAT, Distiller's chain",
    "torch-fx": "QAT, torch FX",
}
STAGES = {"fit": "dense", "prune": "pruned", "qat": "pruned, 4/4 bits"}

WIDTH, ROW, LABELS, BAR = 860, 24, 200, 220
STYLE = """
text { font: 13px system-ui, "DejaVu Sans", Arial, sans-serif; fill: #1c2430; }
.title { font-weight: 600; font-size: 14px; }
.note { fill: #667; }
.bar { fill: #b4bcc6; }
.ours { fill: #3b7dd8; }
@media (prefers-color-scheme: dark) {
text { fill: #dde3ea; } .note { fill: #98a2ad; } .bar { fill: #55606c; } }
"""


class Bar(NamedTuple):
    """One bar: what stands before it, how long it is, and what stands behind it."""

    label: str
    value: float
    text: str
    is_ours: bool


def _read(stem: str) -> dict:
    return json.loads((RESULTS / f"{stem}.json").read_text())


def step_bars() -> tuple[list[Bar], list[Bar]]:
    """Return time and peak memory of a training step over those of float32.

    The allocator keeps freed memory; of a variant that was timed in two groups the first counts.
    """
    results = _read("qat_step_cpu")
    times: dict[str, float] = {}
    for row in results["steps"]:
        if row["allocator"] == "warm":
            times.setdefault(row["variant"], row["ratio"])
    peaks = {row["variant"]: row["peak_mib"] for row in results["memory"]}
    memory = {name: peaks[name] / peaks["plain-silu"] for name in STEPS}
    return _over_plain(times), _over_plain(memory)


def _over_plain(ratios: dict[str, float]) -> list[Bar]:
    return [
        Bar(label, ratios[name], f"{ratios[name]:.2f}", name == "micronet")
        for name, label in STEPS.items()
    ]


def score_bars() -> list[Bar]:
    """Return the challenge score of each stage of resnet20, first seed."""
    stages = _read("cifar10_resnet20")["seeds"]["0"]
    return [
        Bar(
            STAGES[row["stage"]],
            row["score"],
            f"{row['score']:.4f}, top-1 {100 * row['correct'] / row['total']:.2f} %",
            row["stage"] == "qat",
        )
        for row in stages
    ]


def panel(title: str, bars: Sequence[Bar], x: int, y: int, labels: int) -> list[str]:
    """Return one panel with its upper left corner at (x, y); `labels` is the room for names."""
    longest = max(bar.value for bar in bars)
    parts = [f'<text class="title" x="{x + labels}" y="{y}">{escape(title)}</text>']
    for number, bar in enumerate(bars):
        top = y + 12 + ROW * number
        wide = bar.value / longest * BAR
        kind = "bar ours" if bar.is_ours else "bar"
        if labels:
            parts.append(_text(x + labels - 8, top + 14, bar.label, "end"))
        parts.append(
            f'<rect class="{kind}" x="{x + labels}" y="{top}" width="{wide:.1f}" height="18"/>'
        )
        parts.append(_text(x + labels + wide + 6, top + 14, bar.text, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def svg() -> str:
    """Return the picture."""
    times, memory = step_bars()
    below = 12 + ROW * len(times) + 50
    height = below + 32 + ROW * len(STAGES) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Training step of EfficientNet-B1, and score of resnet20 on CIFAR-10</title>",
        f"<style>{STYLE}</style>",
        *panel("Training step, time over float32", times, 0, 20, LABELS),
        *panel("Its peak memory over float32", memory, LABELS + BAR + 80, 20, 0),
        *panel("Score of resnet20 on CIFAR-10", score_bars(), 0, below + 20, LABELS),
        f'<text class="note" x="8" y="{height - 6}">EfficientNet-B1, batch 16 at 224, two CPU '
        "cores; shorter is better everywhere.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(svg())
    print(PICTURE)
