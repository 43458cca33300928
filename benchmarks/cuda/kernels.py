"""``make bench-kernels``: what the CUDA kernels need and what bounds them, known before any runs.

Compiles all kernels for each architecture and reads the compiler's report and the disassembly. No
device is needed. Writes the table under ``benchmarks/results/``, which a test compares with the
sources.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cuda import convolutions as cuda_convolutions
from benchmarks.cuda.compiler import Kernel, compile_kernels, definitions, digest
from benchmarks.cuda.costs import CHIPS, THREADS, WIDE_LOAD, WIDE_STORE, Cost, cost, instructions_of
from benchmarks.harness import report

STEM, CONVOLUTIONS = "cuda_kernels", "convolutions"
WIDE_COPY = r"LDGSTS\S*\.128"

Row = dict[str, object]


def row(kernel: Kernel) -> Row:
    """Return what is known of a kernel; times in picoseconds an element."""
    found: Row = {
        "registers": kernel.registers,
        "spilled": kernel.spilled,
        "shared": kernel.shared,
        "threads": THREADS * CHIPS[kernel.architecture].blocks(kernel),
        "wide_loads": kernel.all.count(WIDE_LOAD) + kernel.all.count(WIDE_COPY),
        "wide_stores": kernel.all.count(WIDE_STORE),
        "tensor_core": kernel.all.count(cuda_convolutions.TENSOR_CORE),
    }
    needed = cost(kernel)
    return found if needed is None else {**found, **bounds(kernel, needed)}


def bounds(kernel: Kernel, needed: Cost) -> Row:
    """Return the bytes of an element, its least time, and what its instructions leave of it."""
    chip = CHIPS[kernel.architecture]
    moved = 1e12 * needed.moved / chip.bytes
    found: Row = {"element": needed.element, "bytes": needed.moved, "picoseconds": round(moved, 3)}
    instructions = instructions_of(kernel, needed)
    if instructions is None:
        return found
    issued = 1e12 * instructions / chip.instructions
    share = min(1.0, moved / issued)
    return {**found, "instructions": round(instructions, 1), "share": round(share, 2)}


def record(compiled: dict[int, list[Kernel]]) -> dict[str, dict[str, Row]]:
    """Return the rows of kernels by architecture and name, and of convolutions on the last."""
    kernels = {
        f"sm_{number}": {kernel.name: row(kernel) for kernel in kernels}
        for number, kernels in compiled.items()
    }
    return {**kernels, CONVOLUTIONS: cuda_convolutions.rows(compiled[max(compiled)])}


# Heading, and the fact that stands there.
_COLUMNS = (
    ("registers", "registers"),
    ("spilled", "spilled"),
    ("shared, bytes", "shared"),
    ("threads", "threads"),
    ("16-byte loads", "wide_loads"),
    ("stores", "wide_stores"),
    ("tensor core", "tensor_core"),
)
_BOUNDS = (
    ("bytes", "bytes", "{:.3f}"),
    ("ps", "picoseconds", "{:.2f}"),
    ("instructions", "instructions", "{:.0f}"),
    ("share", "share", "{:.0%}"),
)

ABOUT = (
    "Made by `make bench-kernels` from the compiler's report and the disassembly; no kernel ran. "
    "Where the two architectures differ, a cell reads sm_80 / sm_90. Threads: how many of a "
    "multiprocessor's 2048 its registers and shared memory leave. 16-byte loads, asynchronous "
    "copies among them, stores and tensor core count instructions of the code. What "
    "follows is of one element of what the kernel streams over, on sm_90: the bytes that it must "
    "move, the time that these take at 3.0 TB/s, the instructions of the loop that moves them (all "
    "branches counted, so at most these), and the share of the memory's rate that the issue of "
    "these instructions leaves, 132 multiprocessors at 1.755 GHz. Kernels of a few numbers have no "
    "bound; those of convolutions have theirs below, by shape. What ends in false, or begins with "
    "<0 in a product, serves channels and addresses that accesses of several codes do not fit."
)


def markdown(record: dict[str, dict[str, Row]], compiler: str) -> str:
    """Return the page."""
    rows = {name: rows for name, rows in record.items() if name != CONVOLUTIONS}
    head = ["kernel", *(name for name, _ in _COLUMNS), "element", *(name for name, *_ in _BOUNDS)]
    lines = [head, ["---", *["--:"] * len(_COLUMNS), "---", *["--:"] * len(_BOUNDS)]]
    files = dict(definitions())
    newest = max(rows)
    for name, last in rows[newest].items():
        each = [found[name] for found in rows.values()]
        cells = ["/".join(dict.fromkeys(str(one[fact]) for one in each)) for _, fact in _COLUMNS]
        limits = [text.format(last[fact]) if fact in last else "" for _, fact, text in _BOUNDS]
        label = f"`{name}` ({files[name.partition('<')[0]]})"
        lines.append([label, *cells, str(last.get("element", "")), *limits])
    table = ["| " + " | ".join(line) + " |" for line in lines]
    facts = report.facts({"compiler": compiler})
    convolutions = cuda_convolutions.markdown(record[CONVOLUTIONS])
    parts = ["# CUDA kernels before they run", ABOUT, "\n".join(table), convolutions, facts]
    return "\n\n".join(parts) + "\n"


def compiler() -> str:
    """Return the release of nvcc."""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release [\d.]+, V[\d.]+", said.stdout)
    return "nvcc " + (found[0] if found else said.stdout.strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print and write the table, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    args = parser.parse_args(argv)
    found = record(compile_kernels())
    text = markdown(found, compiler())
    report.write(args.out, STEM, text, {"compiler": compiler(), "sources": digest(), **found})
    print(text)
    every = [one for name, rows in found.items() for one in rows.values() if name != CONVOLUTIONS]
    shares = [one["share"] for rows in found.values() for one in rows.values() if "share" in one]
    result = {
        "kernels": len(every),
        "spilled": sum(one["spilled"] for one in every),
        "least_threads": min(one["threads"] for one in every),
        "below_half": sum(share < 0.5 for share in shares),
    }
    print("RESULT " + json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
