"""Fuzz target of readers of recipes, checkpoints and saved networks: ``python
tests/support/fuzz_readers.py``.

Every input is a valid file, changed at random; a reader answers with what it read or with one
sentence. Anything else is a crash, whose input is printed. Half of the inputs are recipes, a
quarter each checkpoints and folders of networks, whose checksum fits what was changed.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from micronet.compression.one_shot import prune_, quantize_
from micronet.recipe.reader import Recipe, load_recipe
from micronet.recipe.schema import ActivationPrecision, QuantizeOverride, WeightPrecision
from micronet.runs import checkpoint
from micronet.runs.folder import load, save
from micronet.runs.folder_files import CONFIG, WEIGHTS
from micronet.utils.errors import UserError
from paths import ROOT

# What an author of a schedule might write in a wrong place, and what YAML makes of odd text.
PIECES = [
    *("null", "true", "-1", "0", "1e999", ".nan", "[]", "{}", "[a, [b]]", "{a: 1}", "''", "~"),
    *("&a", "*a", "!!int x", "!!python/name:os.system", "2019-99-99", "0x", ": ", "- ", "\n", "  "),
    *("1e-4", "0o9", "2:4", "12_3", "re:(", "levels: 5", "extension:", "ending_epoch: x", "'*': 0"),
    *("policies:", "prune:", "groups:", "layers:", "class:", "? ", "| ", "<<: *a", "%", "\t"),
]
DISTILLER = """
pruners:
  a:
    {class: AutomatedGradualPruner, initial_sparsity: 0, final_sparsity: 0.5, weights: [b.weight]}
  f:
    class: L1RankedStructureParameterPruner_AGP
    initial_sparsity: 0
    final_sparsity: 0.5
    group_type: Blocks
    group_size: 1
    kwargs: {block_shape: [4, 1, 1, 1]}
    weights: module.g.module.h.weight
  c: {class: SparsityLevelParameterPruner, levels: {d.weight: 0.5, e.weight: 0, '*': 0.2}}
regularizers:
  r: {class: L1Regularizer}
extensions:
  x: {class: FilterRemover}
quantizers:
  q:
    class: QuantAwareTrainRangeLinearQuantizer
    bits_weights: 4
    overrides: {.*: {bits_weights: 3}}
lr_schedulers:
  l: {class: MultiStepMultiGammaLR, milestones: [2, 3], gammas: [0.1, 0.1]}
policies:
  - {pruner: {instance_name: a}, starting_epoch: 0, ending_epoch: 9, frequency: 2}
  - pruner: {instance_name: f, args: {keep_mask: true, fold_batchnorm: false}}
    epochs: [1, 3]
  - {extension: {instance_name: x}, epochs: [3]}
  - {quantizer: {instance_name: q}, epochs: [1, 2]}
  - {lr_scheduler: {instance_name: l}, starting_epoch: 0, ending_epoch: 9, frequency: 1}
"""


def changed_text(text, chance):
    """Replace, remove, double or move a few pieces of a text."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 0, 1, 2, 5, 20]))
        piece = chance.choice([*PIECES, text[end : end + 10], "", chr(chance.randrange(0x300))])
        text = text[:start] + piece + text[end:]
    return text


def changed_bytes(content, chance):
    """Flip bits, cut, or overwrite a few bytes, the header's length included."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        content = content or bytearray(1)
        kind, at = chance.randrange(4), chance.randrange(len(content))
        if kind == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at : at + 8] = chance.randbytes(chance.randint(0, 12))
        else:
            at = chance.randrange(min(len(content), 200))
            content[at : at + 1] = chance.choice([b'"', b"{", b"}", b"9", b"\xff", b","])
    return bytes(content)


def answers(read, path):
    """Whether a reader answers, and does so in one line where it refuses."""
    try:
        read(path)
    except UserError as error:
        return "\n" not in str(error)
    return True


def random_value(chance):
    """What has no place in a description of a network."""
    values = [None, True, -1, 0, 3, 10**30, 1e300, 0.5, "", "x", "a:b", "\n", "\ud800", [], [1], {}]
    return chance.choice([*values, {"a": 1}, [[]], {"": None}, "resnet20", "own", 256, 1e-300])


def changed_document(document, chance):
    """Replace, remove or add a value anywhere in plain data."""
    at = document
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not (isinstance(at[key], dict | list) and at[key]) or chance.random() < 0.2:
            break
        at = at[key]
    kind = chance.randrange(4)
    if kind == 0:
        del at[key]
    elif kind == 1 and isinstance(at, dict):
        at[chance.choice([str(key) + "x", "", "weight_bits", "a\nb", "\ud800"])] = random_value(
            chance
        )
    else:
        at[key] = random_value(chance)
    return document


def changed_tensors(tensors, chance):
    """Change a value, the type, the shape or the name of a tensor."""
    name = chance.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = chance.randrange(5)
    if kind == 0 and tensor.numel():
        numbers = [0, 1, -1, 3.5, 1e30, torch.inf, -torch.inf, torch.nan]
        number = chance.choice(numbers if tensor.is_floating_point() else [0, 1, -1, 77])
        tensor.view(-1)[chance.randrange(tensor.numel())] = number
    elif kind == 1:
        tensor = tensor.to(chance.choice([torch.float64, torch.float16, torch.uint8, torch.bool]))
    elif kind == 2:
        tensor = tensor.reshape(-1)[: chance.randrange(4)]
    elif kind == 3:
        name = name + chance.choice(["x", "_mask", ".", "\n"])
    return tensors | ({} if kind == 4 else {name: tensor})


class NetworkFolder:
    """The folder of a network, and changes of it."""

    def __init__(self, path):
        torch.manual_seed(0)
        model = self.float_network()
        prune_(model, 0.5)
        precisions = WeightPrecision(4, step="learned"), ActivationPrecision(4, step="learned")
        learned = QuantizeOverride(("2",), *precisions)
        quantize_(model, overrides=[learned])
        model(torch.randn(2, 3, 8, 8))
        about = {"image_size": 8, "classes": ["a", "b"], "mean": [0.5], "std": [0.1]}
        save(model, path, recipe=Recipe.load("demo_qat"), **about)
        self.path, self.config, self.weights = path, path / CONFIG, path / WEIGHTS
        self.text, self.content = self.config.read_text(), self.weights.read_bytes()

    @staticmethod
    def float_network():
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(64, 2))

    def read(self, path):
        load(path, model=self.float_network())

    def change(self, chance):
        """Write the folder anew with something changed in it; return what."""
        text, content = self.text, self.content
        kind = chance.randrange(4)
        if kind == 0:
            text = changed_text(text, chance)
        elif kind == 1:
            text = json.dumps(changed_document(json.loads(text), chance))
        elif kind == 2:
            content = safetensors.torch.save(
                changed_tensors(safetensors.torch.load(content), chance)
            )
        else:
            content = changed_bytes(content, chance)
        before, after = (hashlib.sha256(c).hexdigest() for c in (self.content, content))
        text = text.replace(before, after)
        self.config.write_bytes(text.encode("utf-8", "replace"))
        self.weights.write_bytes(content)
        return text, content


def fuzz(inputs, seed, folder):
    """Return how many inputs crashed a reader."""
    chance = random.Random(seed)
    schedules = [p.read_text() for p in sorted((ROOT / "schedules").glob("*.yaml"))]
    schedules.append(DISTILLER)
    path, whole = folder / "schedule.yaml", folder / "x.safetensors"
    network = NetworkFolder(folder / "network")
    checkpoint.save(whole, {"model/w": torch.randn(3, 3), "mask/w": torch.ones(2).byte()}, {"a": 1})
    content, crashes = whole.read_bytes(), 0
    for index in range(inputs):
        if index % 2:
            changed = changed_text(chance.choice(schedules), chance).encode("utf-8", "replace")
            path.write_bytes(changed)
            read, file = load_recipe, path
        elif index % 4:
            changed = network.change(chance)
            read, file = network.read, network.path
        else:
            changed = changed_bytes(content, chance)
            whole.write_bytes(changed)
            read, file = checkpoint.load, whole
        try:
            well = answers(read, file)
        except Exception as error:
            well = False
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        if not well:
            crashes += 1
            print(f"input {index} of seed {seed}: {changed!r}", file=sys.stderr)
    return crashes


def main():
    """Run; return 1 if a reader crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        crashes = fuzz(args.inputs, args.seed, Path(folder))
    print(f"{args.inputs} inputs of seed {args.seed}: {crashes} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
