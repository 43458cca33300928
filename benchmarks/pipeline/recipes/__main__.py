"""``make bench-recipes``: which keys of a recipe make 4 bits and 60 % zeros cost less accuracy.

One dense start for each network and seed; pruned ones from it, and from those many with 4-bit
weights and inputs, each by another recipe. A call does as many trainings as its hours allow, and
the next one goes on. The table keeps what another call, with other seeds or networks and the same
epochs, has found. Ends with one RESULT line.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import machine, report
from benchmarks.harness.machine import ROOT
from benchmarks.pipeline import accuracy
from benchmarks.pipeline.recipes.report import markdown, rows
from benchmarks.pipeline.recipes.runs import Comparison, Stop, plain, published, together
from benchmarks.pipeline.recipes.variants import Epochs, table
from micronet.utils.errors import reports_user_errors

STEM = "recipes_cifar10"
NETWORKS = ("mobilenetv2_cifar", "resnet20")


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="folder of images; by default CIFAR-10")
    add("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs-fit", type=int, default=12)
    add("--epochs-prune", type=int, default=6)
    add("--epochs-qat", type=int, default=4)
    add("--hours", type=float, default=float("inf"), help="after which no training starts")
    names = list(table(Epochs(1, 1, 1)))
    add("--only", nargs="+", choices=names, metavar="VARIANT", help=", ".join(names))
    add("--threads", type=int, help="CPU threads of torch")
    add("--work", type=Path, default=ROOT / "runs" / "recipes", help="where runs are kept")
    add("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: list[str] | None = None) -> int:
    """Train what there is time for, print and write the table, and end with the RESULT line."""
    args = parsed(argv)
    epochs = Epochs(args.epochs_fit, args.epochs_prune, args.epochs_qat)
    deadline = time.monotonic() + 3600 * args.hours
    options = () if args.threads is None else ("--threads", str(args.threads))
    data = args.data or accuracy.images()
    comparison = Comparison(data, args.work, epochs, deadline, options)
    comparison.check()
    try:
        found = comparison.run_all(args.networks, args.seeds, args.only)
    except Stop as stop:
        return stop.code
    found = together(published(args.results / f"{STEM}.json", epochs), found)
    lines = rows(found)
    facts = machine.describe()
    runs = [{**case._asdict(), **plain(outcome)} for case, outcome in found.items()]
    record = {"epochs": asdict(epochs), "rows": [asdict(row) for row in lines], "runs": runs}
    summary = {f"{row.network} {row.variant}": row.top1 for row in lines}
    text = markdown(lines, epochs, facts)
    report.publish(args.results, STEM, text, {**record, "machine": facts}, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
