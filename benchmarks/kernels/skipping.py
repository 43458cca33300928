"""``make bench-skipping``: from which sparsity on a convolution of codes gains by skipping weights.

The ten costliest pointwise layers of EfficientNet-B1, pruned at random, weight by weight or in
blocks of outputs or of inputs. In turn: all weights multiplied, those that are not zero listed and
the others skipped, what the operator chooses by its rule, and torch's float32 convolution. Writes
the break-even table under ``benchmarks/results/`` and ends with one RESULT line.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import micronet_kernels as kernels
from benchmarks.harness import machine, report, shapes
from benchmarks.harness.ours import HI, LEVELS, LO
from benchmarks.harness.timing import interleave
from benchmarks.qat import layers as qat_layers
from benchmarks.qat.sites import Site
from micronet.pruning import patterns

STEM = "skipping_cpu"
SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
STRUCTURES = ("1x1", "4x1", "16x1", "1x4")  # outputs x inputs that are pruned together
ROUNDS = 9
# Where a layer widens sums are short; where it narrows few outputs share what is read.
KINDS = ("expansion", "projection")


@dataclass(frozen=True)
class Row:
    """One layer pruned to one sparsity; times in seconds."""

    site: str
    kind: str  # one of KINDS
    structure: str
    sparsity: float
    groups: float  # share of the groups of four integer weights with one that is not zero
    multiplied: float
    skipped: float
    chosen: float
    torch: float


def pruned(site: Site, structure: str, sparsity: float) -> torch.Tensor:
    """Return random weights with a share of their blocks zero, exactly to one block."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(site.weight_size, generator=generator)
    cut = torch.rand(patterns.pieces(site.weight_size, structure), generator=generator)
    threshold = cut.sort().values[min(int(sparsity * cut.numel()), cut.numel() - 1)]
    bits = patterns.spread(cut >= threshold, site.weight_size, structure)
    return w * kernels.unpack_bits(bits, w.numel()).view(w.shape)


def groups_with_weights(w: torch.Tensor) -> float:
    """Return the share of groups of four products of an output that are not all zero."""
    codes, _, zero = kernels.quantize_per_channel(w, LEVELS)
    whole = patterns.products(codes) + zero[:, None]
    padded = torch.nn.functional.pad(whole, (0, -whole.shape[1] % 4))
    return padded.unflatten(1, (-1, 4)).any(2).float().mean().item()


@torch.no_grad()
def measure(site: Site, structure: str, sparsity: float, rounds: int = ROUNDS) -> Row:
    """Time one layer in all four ways, interleaved."""
    from micronet_kernels import _C

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(site.input_size, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    w = pruned(site, structure, sparsity)
    call = kernels.ConvCall(LEVELS, LEVELS, site.stride, site.padding, (1, 1), site.groups)
    codes = kernels.quantize_input(x, torch.tensor([LO, HI]), LEVELS)
    weights = kernels.QuantizedWeights.of_ranges(w, torch.empty(0, dtype=torch.uint8))
    arguments = call.arguments(codes, w, weights)

    def ours(skipping: bool | None) -> Callable[[], object]:
        def step() -> object:
            _C.set_skipping(skipping)
            return torch.ops.micronet.quant_conv2d.default(*arguments)

        return step

    channels_last = w.contiguous(memory_format=torch.channels_last)
    steps = {
        "multiplied": ours(False),
        "skipped": ours(True),
        "chosen": ours(None),
        "torch": lambda: torch.nn.functional.conv2d(x, channels_last),
    }
    try:
        times = interleave(steps, rounds)
    finally:
        _C.set_skipping(None)
    medians = {name: taken.median for name, taken in times.items()}
    groups = groups_with_weights(w)
    return Row(qat_layers.text(site), kind(site), structure, sparsity, groups, **medians)


def kind(site: Site) -> str:
    """Return whether a layer has more outputs than inputs, or fewer."""
    outputs, inputs = site.weight_size[:2]
    return KINDS[outputs < inputs]


def break_even(rows: Sequence[Row]) -> float | None:
    """Return the sparsity from which on skipping takes no longer, interpolated; None: never."""
    ordered = sorted(rows, key=lambda row: row.sparsity)
    gains = [row.multiplied / row.skipped for row in ordered]
    if gains[-1] < 1:
        return None
    last = max((i for i, gain in enumerate(gains) if gain < 1), default=None)
    if last is None:
        return ordered[0].sparsity
    below, above = ordered[last].sparsity, ordered[last + 1].sparsity
    return below + (above - below) * (1 - gains[last]) / (gains[last + 1] - gains[last])


def regret(row: Row) -> float:
    """Return the time of what the rule chose over the better of both."""
    return row.chosen / min(row.multiplied, row.skipped)


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Return the headline figures, all ratios."""
    ordered = sorted(regret(row) for row in rows)
    at = {s: sorted(r.torch / r.chosen for r in rows if r.sparsity == s) for s in SPARSITIES}

    def median(of: Sequence[float]) -> float:
        return round(of[len(of) // 2], 3)

    even = {
        f"break_even_{structure}": round(middle_break_even(rows, structure), 3)
        for structure in dict.fromkeys(row.structure for row in rows)
    }
    return {
        "chosen_over_better_median": median(ordered),
        "chosen_over_better_worst": round(ordered[-1], 3),
        "torch_over_chosen_dense": median(at[SPARSITIES[0]]),
        "torch_over_chosen_sparsest": median(at[SPARSITIES[-1]]),
        **even,
    }


def middle_break_even(rows: Sequence[Row], structure: str, kind: str | None = None) -> float:
    """Return the median over layers, of one kind or all, of the sparsity that breaks even.

    A layer that never breaks even counts as if it did where nothing is left.
    """
    layers: dict[str, list[Row]] = {}
    for row in rows:
        if row.structure == structure and kind in (None, row.kind):
            layers.setdefault(row.site, []).append(row)
    return statistics.median([break_even(own) or 1.0 for own in layers.values()])


def by_kind(rows: Sequence[Row]) -> list[str]:
    """Return the table of break-even sparsities by kind of layer and block."""
    structures = list(dict.fromkeys(row.structure for row in rows))
    lines = [["break-even, median", *structures], ["---", *["--:"] * len(structures)]]
    for of in KINDS:
        if count := len({row.site for row in rows if row.kind == of}):
            even = [middle_break_even(rows, structure, of) for structure in structures]
            cells = ["never" if share == 1.0 else f"{share:.0%}" for share in even]
            lines.append([f"{count} {of}s", *cells])
    return ["| " + " | ".join(line) + " |" for line in lines]


ABOUT = (
    "Made by `make bench-skipping`; forward pass, 4-bit codes and weights, the rounding of weights "
    "included. Each cell is the time with all weights multiplied over that with pruned ones "
    "skipped: above 1 skipping gains. It skips groups of four weights of an output; break-even is "
    "the sparsity from which on it takes no longer, interpolated. A block is so many outputs by so "
    "many inputs, pruned together: the four of 1x4 are a group that is skipped. An expansion has "
    "more outputs than inputs, a projection fewer. Chosen over better: the time of what the "
    "operator's rule chooses over the shorter of the two; the rule is that of the instruction set."
)


def markdown(rows: Sequence[Row], what: str, facts: dict[str, str]) -> str:
    """Return the whole page."""
    head = ["layer", "block", *(f"{s:.0%}" for s in SPARSITIES), "break-even", "torch / chosen"]
    rule = ["---", "--:", *["--:"] * (len(head) - 2)]
    lines = [head, rule]
    for site in dict.fromkeys(row.site for row in rows):
        for structure in STRUCTURES:
            own = [row for row in rows if (row.site, row.structure) == (site, structure)]
            even = break_even(own)
            gains = [f"{row.multiplied / row.skipped:.2f}" for row in own]
            ratios = [row.torch / row.chosen for row in own]
            cells = [site, structure, *gains, "never" if even is None else f"{even:.0%}"]
            lines.append([*cells, f"{min(ratios):.2f}-{max(ratios):.2f}"])
    table = ["| " + " | ".join(line) + " |" for line in lines]
    headlines = [f"- {name}: {value}" for name, value in summarize(rows).items()]
    title = f"# Skipping pruned weights on the CPU: {what}"
    parts = [title, "", ABOUT, "", *headlines, "", *by_kind(rows), "", *table, ""]
    return "\n".join([*parts, report.facts(facts)]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="tiny: efficientnet-b0 at 32x32")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    arch, batch, side = shapes.ARCH, shapes.BATCH, shapes.SIDE
    if args.quick:
        arch, batch, side = "efficientnet-b0", 1, 32
    chosen = qat_layers.chosen(arch, batch, side)
    sites = [site for site, (kind, _) in chosen.items() if kind == qat_layers.POINTWISE]
    rows = [
        measure(site, structure, sparsity, 3 if args.quick else args.rounds)
        for site in sites
        for structure in STRUCTURES
        for sparsity in SPARSITIES
    ]
    what = f"{arch}, batch {batch} at {side}x{side}, {args.threads} threads"
    facts = machine.describe()
    text = markdown(rows, what, facts)
    record = {"summary": summarize(rows), "rows": [asdict(row) for row in rows], "machine": facts}
    report.publish(args.out, STEM, text, record, summarize(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
