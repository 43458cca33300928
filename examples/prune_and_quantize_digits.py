"""Prune a small network on handwritten digits and train it in 4 bits, by the commands; score it.

Options that this script does not know go to every stage.

python examples/prune_and_quantize_digits.py --out runs/example --batch-size 128
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import micronet.score as score
from micronet import train


def command(program: ModuleType, *words: str | Path) -> None:
    """Run one command in this process, as a shell would; a failure ends the script."""
    words = [str(word) for word in words]
    print(f"$ python -m {program.__name__} {' '.join(words)}", flush=True)
    if code := program.main(words):
        sys.exit(code)


def main() -> None:
    """Run five commands, each from the run of the one before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    args, options = parser.parse_known_args()  # others, such as --epochs 1, go to every stage

    fit, pruned, quantized = (args.out / name for name in ("fit", "prune", "qat"))
    start = ("--arch", "efficientnet-micro", "--data", "digits")
    command(train, "fit", *start, "--schedule", "demo_fit", "--out", fit, *options)
    start = ("--from", fit)
    command(train, "prune", *start, "--schedule", "demo_prune", "--out", pruned, *options)
    start = ("--from", pruned, "--teacher", fit)
    command(train, "qat", *start, "--schedule", "demo_qat", "--out", quantized, *options)
    command(train, "eval", quantized)
    command(score, quantized)


if __name__ == "__main__":
    main()
