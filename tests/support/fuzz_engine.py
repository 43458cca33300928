"""Fuzz the engine at length: ``python tests/support/fuzz_engine.py build/core/engine_test_fuzz``.

The program changes files, opens and runs them (csrc/tests/engine/test_fuzz.cpp). Here it is started
for a chunk of inputs at a time, each with a seed of its own; what a chunk came to is a line of the
record, and chunks that have one are not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

MOST = "most memory"


def chunk(program, seed, inputs):
    """Return the counts of one process, or None where it failed, which it says itself."""
    environment = os.environ | {"MICRONET_FUZZ_INPUTS": str(inputs)}
    done = subprocess.run(
        [program, str(seed)], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        print(f"MICRONET_FUZZ_INPUTS={inputs} {program} {seed}: exit code {done.returncode}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def known(record):
    """Return the counts of chunks that were run before, by seed."""
    if not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return {line.pop("seed"): line for line in lines}


def total(chunks):
    """Return the sums of all counts, and the largest of what is a largest."""
    counts = Counter()
    for one in chunks:
        most = max(counts[MOST], one[MOST])
        counts.update(one)
        counts[MOST] = most
    return dict(counts)


def fuzz(program, record, inputs, size, first):
    """Return the totals of so many inputs, and the number of chunks that failed."""
    found, failed = known(record), 0
    for seed in range(first, first + -(-inputs // size)):
        if seed in found:
            continue
        counts = chunk(program, seed, size)
        if counts is None:
            failed += 1
            continue
        found[seed] = counts
        with record.open("a") as lines:
            lines.write(json.dumps({"seed": seed, **counts}) + "\n")
    return total(found.values()), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("fuzz_engine.jsonl"))
    options = parser.parse_args()
    counts, failed = fuzz(
        options.program.resolve(), options.record, options.inputs, options.chunk, options.first_seed
    )
    print(json.dumps(counts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
