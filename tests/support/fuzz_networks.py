"""Fuzz target of everything that a network goes through: ``python tests/support/fuzz_networks.py``.

Networks are drawn at random, whole ones and faulty ones, and given to every command. A command ends
well, with numbers that agree with each other, or with one sentence and code 2; one that refuses a
network leaves nothing behind. Anything else is printed, with the name that makes the network again.
"""

import argparse
import contextlib
import io
import json
import math
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch
import yaml

import micronet.score as score
import random_networks
from image_folders import make_folder
from micronet import report
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.runs import directory
from micronet.train import main as train
from network_kinds import FAULTY, KINDS, WHOLE

PRUNE = {
    "train": {"epochs": 1, "lr": 0.01},
    "prune": {"method": "one-shot", "groups": [{"layers": ["*"], "final_sparsity": 0.5}]},
}
QUANTIZE = {
    "train": {"epochs": 1, "lr": 0.01},
    "quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}},
}


# What is said of a network that fails after it was tried, whose run is there to be looked at.
IN_A_STEP = (" failed in ", "loss is", ", step ", ", validation: ")


class Wrong(Exception):
    """A command did neither what it should nor say why not."""


def ask(program, *arguments):
    """Run a command; return its answer, and whether it was refused in one sentence."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = program(words)
    except BaseException as error:
        where = "".join(traceback.format_exception(error)[-3:])
        raise Wrong(f"{words}: {type(error).__name__}: {str(error)[:300]}\n{where}") from None
    said = err.getvalue()
    if code == 0:
        return out.getvalue(), False
    if code != 2 or said.count("\n") != 1 or not said.startswith("error: "):
        raise Wrong(f"{words}: code {code}, {said!r}")
    return said, True


def check(condition, text):
    if not condition:
        raise Wrong(text)


def stage(out, *arguments):
    """Run a training command; a network that was refused leaves no folder."""
    said, refused = ask(train, *arguments, "--out", out)
    if refused and not any(words in said for words in IN_A_STEP):
        check(not out.exists(), f"{out.name} was refused, but left a folder: {said}")
    if not refused:
        records = directory.RunDirectory(out).metrics()
        numbers = [v for record in records for v in record.values() if isinstance(v, float)]
        check(records and all(map(math.isfinite, numbers)), f"{out.name}: {records}")
    return said, refused


def agrees(run, own, repeats):
    """Hold a run's evaluation to what its log says, and its zeros to those of its weights.

    A network that does not repeat itself, as one that draws noise, is right some other time.
    """
    said, refused = ask(train, "eval", run, *own, "--split", "validation", "--json")
    check(not refused, f"eval of {run.name}: {said}")
    record = directory.RunDirectory(run).metrics()[-1]
    found = json.loads(said)
    same = found["top1"] == record["validation_top1"]
    check(same or not repeats, f"eval: {found} but {record}")
    loaded = directory.load(run)
    zeros = prune.shown_sparsity(loaded.model, loaded.masks)
    check(zeros == record["sparsity"], f"{zeros} of {run.name} is zero, not {record['sparsity']}")
    weights = sum(layer.weight.numel() for layer in architectures.layers(loaded.model).values())
    said, refused = ask(train, "summary", run, *own)
    check(refused or f"{weights:,}" in said.splitlines()[-1], f"summary of {run.name}: {said}")
    return loaded


def through(kind, seed, folder, data):
    """Take one network through all commands."""
    spec, side = f"random_networks:{kind}_{seed}", random_networks.side_of(seed)
    batch = random.Random(seed).choice([3, 4, 5])
    own = ["--own", spec]
    fit, pruned, qat = folder / "fit", folder / "prune", folder / "qat"
    common = ["--batch-size", batch, "--threads", 1]
    start = ["fit", "--arch", spec, "--data", data, "--image-size", side, "--lr", 0.01]
    said, refused = stage(fit, *start, "--epochs", 1, *common)
    if kind in FAULTY:
        check(refused and not fit.exists(), f"not refused at once: {said}")
    if kind in WHOLE:
        check(not refused, f"refused: {said}")
    ask(score.main, "--arch", spec, "--num-classes", 2, "--image-size", side)
    ask(train, "summary", "--arch", spec, "--num-classes", 2, "--image-size", side)
    if refused:
        return
    repeats = kind != "noisy"
    agrees(fit, own, repeats)
    for out, recipe in ((pruned, PRUNE), (qat, QUANTIZE)):
        schedule = folder / f"{out.name}.yaml"
        schedule.write_text(yaml.safe_dump(recipe))
        command = [out.name, "--from", fit, "--schedule", schedule, *own, *common]
        _, refused = stage(out, *command)
        if refused:
            continue
        loaded = agrees(out, own, repeats)
        if out is pruned:
            check(loaded.masks, "nothing was pruned")
        ask(score.main, out, *own)
        said, refused = ask(report.main, out, *own)
        check(not refused, f"report: {said}")
    ask(train, "sensitivity", fit, *own, "--levels", "0.5", "--out", folder / "scan")


def fuzz(networks, seed, folder, kinds=None):
    """Return how many networks were answered wrongly."""
    chance, wrong = random.Random(seed), 0
    data = make_folder(folder / "data", 12, count=6)
    kinds = kinds or KINDS
    for index in range(networks):
        # Every kind comes, and whole ones half of the time.
        kind = list(kinds)[index // 2 % len(kinds)] if index % 2 else "whole"
        name = kind, chance.randrange(10**9)
        # Said before it is tried, for what ends the process at once.
        print("random_networks:{}_{}".format(*name), flush=True)
        custom._allowed.clear()
        with tempfile.TemporaryDirectory(dir=folder) as own, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                through(*name, Path(own), data)
            except Wrong as error:
                wrong += 1
                print("random_networks:{}_{}: {}".format(*name, error), file=sys.stderr, flush=True)
    return wrong


def main():
    """Run; return 1 if a network was answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--kinds", nargs="*", help="default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        wrong = fuzz(args.networks, args.seed, Path(folder), args.kinds)
    print(f"{args.networks} networks of seed {args.seed}: {wrong} wrong answers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
