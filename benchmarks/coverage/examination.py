"""One network from random weights to its score, by the commands that a user types.

It is pruned and trained in 4 bits on a handful of images, read back, evaluated and scored. Nothing
here says whether it learns: only whether each of that works, and how much of it is in integers.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

import micronet.score as score
from micronet.models import architectures
from micronet.models.failures import reason
from micronet.models.unchanged import unchanged
from micronet.pruning import prune
from micronet.quantization import conversion, quantize
from micronet.quantization.plain_weights import computed
from micronet.quantization.precision import LayerBits
from micronet.recipe.reader import load_recipe
from micronet.runs import directory
from micronet.runs.directory import LoadedRun
from micronet.scoring.operations import operation_walk
from micronet.train import main
from micronet.utils.errors import UserError

# Sides to try, the least first, and behind them the network's own.
SIDES = (64, 128)
CLASSES = 2
STEPS = ("pruning", "training", "saving", "exact", "scoring")
_SPARSITY = 0.5


@dataclass
class Coverage:
    """What was found of one network.

    Attributes:
        name: the architecture.
        family: what it stands for.
        size: side of its images.
        layers: convolutions and linear layers.
        integer_layers: those that train on integers.
        integer_macs: share of the multiply-adds with weights that they do.
        left: numbers of layers that stay in float, by the reason.
        works: whether each of ``STEPS`` does; absent where one before it does not.
        refusals: the sentence by the step that does not work.
        crashes: likewise, of what ended in anything but a sentence.
        seconds: that it took.
    """

    name: str
    family: str
    size: int = 0
    layers: int = 0
    integer_layers: int = 0
    integer_macs: float = 0.0
    left: dict[str, int] = field(default_factory=dict)
    works: dict[str, bool] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    crashes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def examine(name: str, family: str) -> Coverage:
    """Take one network through everything; whatever it raises is noted."""
    found = Coverage(name, family)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            _examine(found, Path(folder))
        except UserError as error:
            found.refusals["building"] = str(error)
        except Exception as error:
            found.crashes["building"] = reason(error)
    return found


def _examine(found: Coverage, folder: Path) -> None:
    torch.manual_seed(0)
    model, found.size = _smallest(found.name)
    recipe = _recipe(model, folder / "recipe.yaml")
    bits = quantize.plan(model, load_recipe(recipe).quantize, str(recipe))
    _shares(found, model, bits)
    torch.save(model.state_dict(), folder / "weights.pth")
    for part, count in (("train", 4), ("val", 2)):
        _write_images(folder / "data" / part, count)
    run = folder / "run"
    command = ["qat", "--arch", found.name, "--weights", folder / "weights.pth"]
    command += ["--data", folder / "data", "--image-size", found.size, "--schedule", recipe]
    command += ["--batch-size", 2, "--epochs", 1, "--lr", 1e-4, "--threads", 1, "--out", run]
    if not _works(found, "training", lambda: _command(main, command)):
        return
    loaded = directory.load(run)
    _works(found, "pruning", lambda: _check_pruned(loaded))
    _works(found, "saving", lambda: _check_saved(loaded))
    _works(found, "exact", lambda: check_exact(loaded.model, found.size))
    _works(found, "scoring", lambda: _command(score.main, [run]))


def _smallest(name: str) -> tuple[nn.Module, int]:
    """Return the network and the least side of an image that it takes in training."""
    model = architectures.create_model(name, CLASSES)
    own = architectures.default_image_size(name)
    for side in (s for s in SIDES if s < own):
        with contextlib.suppress(Exception), unchanged(model), torch.no_grad():
            model.train()(torch.randn(2, 3, side, side))
            return model, side
    return model, own


def _recipe(model: nn.Module, path: Path) -> Path:
    """Write what prunes every weight that can be, and quantizes by the defaults alone."""
    plain = [name for name, m in architectures.layers(model).items() if computed(m) is None]
    groups = [{"layers": plain, "final_sparsity": _SPARSITY}]
    sections = {
        "prune": {"method": "one-shot", "groups": groups},
        "quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def _shares(found: Coverage, model: nn.Module, bits: dict[str, LayerBits]) -> None:
    """Count what is in integers, and why the rest is not."""
    rows = conversion.report(model, bits)
    integer = {row.layer for row in rows if row.arithmetic == conversion.INTEGER}
    found.layers, found.integer_layers = len(rows), len(integer)
    kinds = (f"{row.reason} ({row.kind.split(' ')[0]})" for row in rows if row.layer not in integer)
    found.left = dict(Counter(kinds))
    try:
        macs = operation_walk.multiply_adds(model, found.size)
    except ValueError as error:
        found.refusals["counting"] = str(error)
        return
    total = sum(macs.values())
    found.integer_macs = sum(n for name, n in macs.items() if name in integer) / max(total, 1)


def _works(found: Coverage, step: str, check) -> bool:
    """Note whether a step works, or what it says or raises."""
    try:
        check()
        found.works[step] = True
    except (UserError, AssertionError) as error:
        found.works[step], found.refusals[step] = False, str(error)
    except (Exception, SystemExit) as error:
        found.works[step], found.crashes[step] = False, reason(error)
    return found.works[step]


def _command(program, arguments: list[object]) -> None:
    """Run a command; what it refuses is raised."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = program([str(argument) for argument in arguments])
    lines = said.getvalue().splitlines()
    if code:
        sentence = next((x for x in lines if x.startswith("error: ")), f"exit code {code}")
        raise UserError(sentence.removeprefix("error: "))


def _check_pruned(loaded: LoadedRun) -> None:
    zeros = prune.sparsity(loaded.model, list(loaded.masks))
    if not loaded.masks or zeros < _SPARSITY - 0.01:
        raise AssertionError(f"{zeros:.2f} of the weights are zeros, not {_SPARSITY}")


def _check_saved(loaded: LoadedRun) -> None:
    """Hold every tensor of the network that is read to what the file holds of it."""
    held = safetensors.torch.load_file(loaded.path)
    state = loaded.model.state_dict()
    lacks = [name for name, value in state.items() if not _same(held.get(f"model/{name}"), value)]
    if lacks:
        raise AssertionError(f"{lacks[0]!r} is not what was saved")


def _same(first: Tensor | None, second: Tensor) -> bool:
    return first is None or torch.equal(first, second)


def check_exact(model: nn.Module, size: int) -> None:
    """Hold logits to the same bits for one image at a time and by two threads."""
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        torch.set_num_threads(1)
        together = model(images)
        torch.set_num_threads(2)
        apart = torch.cat([model(image[None]) for image in images])
        torch.set_num_threads(1)
    if not torch.equal(together, apart):
        difference = float((together - apart).abs().max())
        largest = float(together.abs().max())
        raise AssertionError(f"logits differ by {difference:.1g} of {largest:.1g}")


def _write_images(folder: Path, count: int) -> None:
    random = np.random.default_rng(count)
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
