"""The page of a report: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from micronet.reporting.facts import RunFacts
from micronet.reporting.plotting import charts as svg
from micronet.reporting.style import of_page
from micronet.scoring.count import Score, shares

# Curves that the logs of some recipes alone have.
_OF_SOME_RECIPES = {
    "Bits": (("of weights", "weight_bits"), ("of inputs", "input_bits")),
    "Oscillating weights": (("oscillating", "oscillating"), ("frozen", "frozen")),
}


def page(runs: Sequence[RunFacts]) -> str:
    """Return the report of one or more runs, side by side and one by one."""
    title = "micronet: " + ", ".join(run.name for run in runs)
    parts = [f"<h1>{escape(title)}</h1>", _overview(runs), _curves(runs)]
    for run in runs:
        parts += [f"<h2>{escape(run.name)}</h2>", *_one(run)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{of_page()}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _overview(runs: Sequence[RunFacts]) -> str:
    head = ["run", "stage", "network", "data", "epochs", "best top-1", "sparsity", "storage", "ops",
            "score"]  # fmt: skip
    return table([head, *(_overview_row(run) for run in runs)])


def _overview_row(run: RunFacts) -> list[str]:
    eligible = [r for r in run.records if r["at_target"]]
    best = max((r["validation_top1"] for r in eligible), default=None)
    sparsity = f"{100 * run.records[-1]['sparsity']:.1f} %" if run.records else "-"
    counted = run.score
    return [
        run.name,
        str(run.config["stage"]),
        str(run.config["arch"]),
        str(run.config["data"]),
        str(len(run.records)),
        "-" if best is None else f"{best:.2f} %",
        sparsity,
        f"{float(counted.storage):,.0f}" if counted else "-",
        f"{float(counted.operations):,.0f}" if counted else "-",
        f"{float(counted.score):.6f}" if counted else "-",
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a table in a box of its own; the first row is its head."""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body)
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{cells}</tr>{inner}</table></div>'


def _curves(runs: Sequence[RunFacts]) -> str:
    def series(*keys: tuple[str, str]) -> list[svg.Line]:
        """One color a run; the second of two keys is dashed."""
        return [
            svg.Line(
                _named(runs, run, name),
                [(r["epoch"] + 1, r[key]) for r in run.records if r.get(key) is not None],
                color,
                "dashed" if second else "plain",
            )
            for color, run in enumerate(runs)
            for second, (name, key) in enumerate(keys)
        ]

    loss = series(("training", "train_loss"), ("validation", "validation_loss"))
    top1 = series(("training", "train_top1"), ("validation", "validation_top1"))
    rates = series(("", "lr"), ("learned steps", "step_lr"))
    plots = [
        svg.lines("Loss", loss, logarithmic=True),
        svg.lines("Top-1", top1, " %"),
        svg.lines("Learning rate", [line for line in rates if line.points]),
        svg.lines("Images a second", series(("", "images_per_second"))),
        svg.lines("Sparsity", _sparsity(runs), " %"),
    ]
    plots += [svg.lines(title, series(*names)) for title, names in _OF_SOME_RECIPES.items()]
    return f'<div class="plots">{"".join(plots)}</div>'


def _sparsity(runs: Sequence[RunFacts]) -> list[svg.Line]:
    found: list[svg.Line] = []
    for color, run in enumerate(runs):
        measured = [(r["epoch"] + 1, 100 * r["sparsity"]) for r in run.records]
        found.append(svg.Line(_named(runs, run, "measured"), measured, color))
        aimed = [(e + 1, 100 * t) for e, t in enumerate(run.targets) if t is not None]
        if aimed:
            found.append(svg.Line(_named(runs, run, "schedule"), aimed, color, "wide"))
    return found


def _named(runs: Sequence[RunFacts], run: RunFacts, name: str) -> str:
    """Return what a legend says: of one run the curve's name, of several the run's too."""
    return " ".join(part for part in (run.short if len(runs) > 1 else "", name) if part)


def _one(run: RunFacts) -> list[str]:
    parts = [f'<p class="missing">{escape(sentence)}</p>' for sentence in run.missing]
    versions = run.config.get("versions") or {}
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts.append(f"<p>{escape(about)}</p>")
    parts += [f"<p>{escape(sentence)}</p>" for sentence in run.criteria]
    if run.settings:
        cells = [["key", "value"], *run.settings]
        parts += ["<h3>Training, where it is not the default</h3>", table(cells)]
    if run.score:
        parts += _score(run.score)
    if run.layers:
        parts += _pictures(run)
    return parts


def _score(counted: Score) -> list[str]:
    kinds = [(name, float(part)) for name, part in shares(counted) if part]
    whole = svg.bars("Where the score comes from", [(n, [v]) for n, v in kinds], ["share"])
    rows = counted.rows()
    total_stored, total_ops = float(counted.storage), float(counted.operations)
    layers = [
        (row.name or "between layers",
         [float(counted.share_of(row.storage, row.operations * 0)),
          float(counted.share_of(row.storage * 0, row.operations))])
        for row in rows
    ]  # fmt: skip
    each = svg.bars("Share of the score by layer", layers, ["storage", "operations"])
    head = ["layer", "weights", "zeros", "W bits", "A bits", "storage", "operations"]
    cells = [head]
    for row in rows:
        facts = row.facts
        zeros = f"{100 * (1 - facts.kept / facts.numel):.1f} %" if facts else ""
        bits = (facts.bits.weight_bits, facts.bits.activation_bits) if facts else ("", "")
        texts = ["float" if b is None else f"{b:g}" if b != "" else "" for b in bits]
        count = f"{facts.numel:,}" if facts else ""
        amounts = [f"{float(row.storage):,.1f}", f"{float(row.operations):,.1f}"]
        cells.append([row.name or "between layers", count, zeros, *texts, *amounts])
    cells.append(["all", "", "", "", "", f"{total_stored:,.1f}", f"{total_ops:,.1f}"])
    plots = f'<div class="plots">{whole}{each}</div>'
    by = f"rule set {counted.rules.name}, track {counted.track.name}"
    return [f"<h3>Score</h3><p>Counted by {escape(by)}.</p>", plots, table(cells)]


def _pictures(run: RunFacts) -> list[str]:
    weights, codes = [], []
    spans: list[tuple[str, float, float]] = []
    for layer in run.layers:
        ends = f"{layer.low:.2g}", f"{layer.high:.2g}"
        share = layer.zeros / (layer.zeros + sum(layer.counts))
        zero = f"{100 * share:.1f} % zero" if share else ""
        weights.append(svg.histogram(layer.layer, layer.counts, *ends, zero))
        if layer.codes is not None:
            last = str(len(layer.codes) - 1)
            codes.append(svg.histogram(layer.layer, layer.codes, "0", last))
        if layer.input_range is not None:
            spans.append((layer.layer, *layer.input_range))
    parts = ["<h3>Weights</h3>", f'<div class="small-plots">{"".join(weights)}</div>']
    if codes:
        parts += ["<h3>Codes of weights</h3>", f'<div class="small-plots">{"".join(codes)}</div>']
    if spans:
        drawn = svg.spans("What inputs are rounded to", spans)
        cells = [[name, f"{low:.4g}", f"{high:.4g}"] for name, low, high in spans]
        both = f'<div class="plots">{drawn}{table([["layer", "from", "to"], *cells])}</div>'
        parts += ["<h3>Ranges of inputs</h3>", both]
    return parts
