"""Fuzz target of packed files: ``python tests/support/fuzz_packed.py --seconds 600``.

Every input is a valid file, changed at random: its bytes, or its document and tensors under a
checksum that fits. The reader, and where it takes the file one evaluation, answer with a result or
with one sentence. Anything else is a crash, whose input is printed; so is memory that the file's
size does not account for, and an evaluation that takes long.
"""

import argparse
import copy
import random
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from torch import nn

import grey_images
from micronet.artifact import accounting, reader
from micronet.artifact.format import container
from micronet.quantization.quantize import LayerBits
from micronet.utils.errors import UserError
from packed_networks import FOUR, compressed, content_of, packed

ODD = [
    None,
    True,
    "",
    "x",
    "conv",
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    257,
    2**16,
    2**31,
    2**63,
    1.5,
    1e999,
]
ODD += [[], [0], [1, 1], [0, 0], [-1, -1], [2**40] * 4, [3, 3, 3, 3], {}, {"kind": "input"}, [None]]
# Weights that the page allows for a byte; Python's objects take no more of it either.
MOST_WEIGHTS_PER_BYTE = 2048


def sources():
    """Small files of several layouts and kinds of sums."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU())
    deep = nn.Sequential(first, nn.Conv2d(6, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(deep, nn.Flatten(), nn.Linear(8, 4))
    bits = {"0.1": FOUR, "2": LayerBits(2.4, None)}
    one = packed(compressed(model, (3, 8, 8), bits), (3, 8, 8))
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1))
    model = compressed(model, (4, 6, 6), {"0": FOUR, "2": FOUR}, sparsity=0)
    with torch.no_grad():
        model[2].weight[:, 4:12].zero_()
    grey = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    grey = compressed(grey, (3, 6, 6), {"0": grey_images.bits_of(), "2": FOUR}, sparsity=0)
    return [one, packed(model, (4, 6, 6)), packed(grey, (3, 6, 6))]


def mutated(file, draw):
    """The bytes of a file that was changed in one way or another."""
    content = bytearray(content_of(file))
    way = draw.randrange(6)
    if way == 0:
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    elif way == 1:
        del content[draw.randrange(len(content)) :]
    elif way == 2:
        length = int.from_bytes(content[:8], "little")
        place = 8 + draw.randrange(length)
        content[place : place + draw.randrange(3)] = draw.choice(
            [b"9", b"-", b"[", b'"', b"e9", b""]
        )
    else:
        plain = copy.deepcopy(file.document.to_plain())
        tensors = {name: tensor.copy() for name, tensor in file.contents.tensors.items()}
        for _ in range(draw.randint(1, 3)):
            _change(plain, draw) if way < 5 else _change_tensor(tensors, draw)
        try:
            content = bytearray(container.to_bytes(plain, tensors))
        except (ValueError, TypeError, RecursionError):
            return bytes(content)
    return bytes(content)


def _change(plain, draw):
    """Change a value somewhere below, take one out, or put one in the place of another."""
    around = plain
    while True:
        keys = list(around) if isinstance(around, dict) else range(len(around))
        if not keys:
            return
        key = draw.choice(list(keys))
        if isinstance(around[key], (dict, list)) and around[key] and draw.random() < 0.85:
            around = around[key]
            continue
        break
    way = draw.random()
    if way < 0.2:
        del around[key]
    elif way < 0.6 and isinstance(around[key], int):
        around[key] = around[key] + draw.choice([-1, 1, 2, 255, 2**31])
    else:
        around[key] = copy.deepcopy(draw.choice(ODD))


def _change_tensor(tensors, draw):
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    way = draw.randrange(4)
    if way == 0:
        del tensors[name]
    elif way == 1:
        tensors[name] = tensor[: draw.randrange(len(tensor) + 1)]
    elif tensor.dtype == np.float32 and len(tensor):
        odd = [np.nan, np.inf, 0.0, -1.0, 1e-45, 3e38]
        tensor[draw.randrange(len(tensor))] = draw.choice(odd)
    elif len(tensor):
        tensor[draw.randrange(len(tensor))] = draw.randrange(256)


def answer(content):
    """Whether a file is taken; raises what a reader must not raise."""
    try:
        file = reader.from_content(content, Path("file"))
        network = reader.network_of(file)
        weights = sum(parameter.numel() for parameter in network.parameters())
        assert weights <= MOST_WEIGHTS_PER_BYTE * len(content), f"{weights} weights were made"
        if max(file.document.input) <= 64:
            with torch.no_grad():
                network(torch.zeros(1, *file.document.input))
        accounting.account(file)
    except UserError as error:
        text = str(error)
        assert text and "\n" not in text, text
        return False
    return True


def fuzz(seconds, seed, most=10**9):
    """Return how many files were answered wrongly, and how many were taken."""
    draw, files = random.Random(seed), sources()
    for file in files:
        assert answer(content_of(file))
    failed = taken = done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and done < most:
        content = mutated(draw.choice(files), draw)
        done += 1
        begin = time.monotonic()
        tracemalloc.start()
        try:
            taken += answer(content)
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < 10**6 + MOST_WEIGHTS_PER_BYTE * len(content), f"{peak} bytes were taken"
            assert time.monotonic() - begin < 20, "it took long"
        except Exception as error:
            failed += 1
            print(f"{type(error).__name__}: {error}\nseed {seed}, input {done}\n{content!r}")
        finally:
            tracemalloc.stop()
    return failed, taken, done


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = parser.parse_args()
    failed, taken, done = fuzz(options.seconds, options.seed)
    print(f"seed {options.seed}: {done} files, {taken} taken, {failed} answered wrongly")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
