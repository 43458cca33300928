"""``make bench``: every operator on shapes of EfficientNet-B1, beside its peers, in one table.

Times the groups of the bench files beside this one, all methods of a group in turn, and writes
the table with the machine and versions under ``benchmarks/results/``.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.harness import machine, report
from benchmarks.harness.methods import Group, Row, measure
from benchmarks.kernels import (
    bench_bits_and_counts,
    bench_codes,
    bench_depthwise_gradient,
    bench_fake_quant,
    bench_learned_step,
    bench_selection,
    bench_weights,
)

FILES = (
    bench_fake_quant,
    bench_learned_step,
    bench_weights,
    bench_codes,
    bench_bits_and_counts,
    bench_selection,
    bench_depthwise_gradient,
)


def groups(device: str, only: str = "") -> list[Group]:
    """Return the groups of all bench files, or of the one whose name ends in `only`."""
    files = [file for file in FILES if file.__name__.endswith(only)]
    return [group for file in files for group in file.groups(device)]


def to_markdown(rows: list[Row], device: str, facts: dict[str, str]) -> str:
    """Return the report: what was done, the table, the machine."""
    text = [
        f"# Operators on shapes of EfficientNet-B1 at batch 16 and 224 pixels, {device}",
        "Made by `make bench`. The methods of one shape take turns. " + report.LEGEND,
        report.markdown(rows),
        report.facts(facts),
    ]
    return "\n\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Time the groups, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="a bench file, by the end of its name")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = [
        row
        for group in groups(args.device, args.only)
        for row in measure(group, rounds=args.rounds)
    ]
    facts = machine.describe()
    text = to_markdown(rows, args.device, facts)
    record = {"machine": facts, "rows": [row.as_dict() for row in rows]}
    report.write(args.out, f"operators_{args.device}", text, record)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
