"""Runs in processes of their own that are killed and resumed until they are through.

``python tests/support/killed_runs.py --runs 20`` kills twenty runs at random moments, as the test
does a few; it prints what happened and fails unless every one ends bit for bit like the undisturbed
run.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

import prepared_processes
from micronet.runs import checkpoint
from micronet.train import main as train

# Prunes, quantizes and distils on the way, so that every part of the state is in the checkpoint.
RECIPE = {
    "train": {
        "epochs": 3,
        "batch_size": 250,
        "lr": 0.05,
        "weight_decay": 1e-4,
        "nesterov": True,
        "model_ema": 0.9,
    },
    "prune": {
        "end_epoch": 2,
        "groups": [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.6}],
    },
    "quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}, "start_epoch": 1},
    "distill": {"start_epoch": 1},
}
# Processes are killed at a random moment up to this many seconds after the first step.
_LATEST = 1.0


def command(arguments):
    """Return a trainer's command line."""
    return [sys.executable, "-m", "micronet.train", *map(str, arguments)]


def started(arguments):
    """Return a process that trains and says nothing."""
    words = list(map(str, arguments))
    process = prepared_processes.context().Process(target=_train_silently, args=(words,))
    process.start()
    return process


def _train_silently(words):
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        sys.exit(train(words))


def finish(process):
    """Wait for a process. Raises AssertionError where it does not end well."""
    process.join()
    assert process.exitcode == 0, f"the run ended with code {process.exitcode}"


def fit(out):
    """Fit a network that runs can start from."""
    small = ["--image-size", "8", "--batch-size", "250", "--threads", "1"]
    finish(started(["fit", "--arch", "resnet20", "--epochs", "1", *small, "--out", out]))


def shared_command(folder, start):
    """Write the recipe; return the command that all runs share, from a run that is fitted."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    small = ["--image-size", "8", "--threads", "1"]
    return ["qat", "--from", start, "--teacher", start, "--schedule", recipe, *small]


def run_killed(shared, out, random_moment, most=100):
    """Run until it is through, killing it again and again; return how often it was killed.

    After the most kills it is left alone.
    """
    kills = 0
    while True:
        resume = ["--resume"] if (out / "config.json").exists() else []
        options = ["--out", out, "--checkpoint-every", "1", "--keep", "2", *resume]
        process = started([*shared, *options])
        if kills < most and _killed(process, out, random_moment):
            kills += 1
        else:
            finish(process)
            return kills


def _killed(process, out, moment):
    """Kill a process at a random moment of its training; False where it ended before."""
    newest = out / "last.safetensors"
    before = newest.stat().st_mtime_ns if newest.exists() else 0
    while process.is_alive():
        if newest.exists() and newest.stat().st_mtime_ns != before:
            break
        time.sleep(0.01)
    process.join(moment.uniform(0.0, _LATEST))
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return True


def differences(one, two):
    """Return the names of the tensors in which two runs' newest checkpoints differ."""
    a, b = (checkpoint.load(run / "last.safetensors").tensors for run in (one, two))
    same = {key for key in a.keys() & b.keys() if torch.equal(a[key], b[key])}
    return sorted((a.keys() | b.keys()) - same)


def main():
    """Kill as many runs as asked for; return 1 if one of them differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    args = parser.parse_args()
    moment = random.Random(args.seed)
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        fit(folder / "start")
        shared = shared_command(folder, folder / "start")
        whole = folder / "whole"
        finish(started([*shared, "--out", whole]))
        failures = 0
        for index in range(args.runs):
            out = folder / f"run-{index}"
            kills = run_killed(shared, out, moment)
            differing = differences(whole, out)
            failures += bool(differing)
            print(f"run {index}: killed {kills} times, {len(differing)} tensors differ", flush=True)
    print(f"{args.runs - failures} of {args.runs} runs ended bit for bit like the undisturbed one")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
