"""What the page on folders says: its program, without micronet, and its keys."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import micronet
from micronet.models import architectures
from micronet.quantization.quantize import LayerBits, convert_
from micronet.runs.folder import load, save
from paths import ROOT

PAGE = (ROOT / "docs" / "folder.md").read_text()
(PROGRAM,) = (
    block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "import numpy" in block
)
BLOCKED = """
import sys
for name in ("micronet", "micronet_kernels", "torch"):
    sys.modules[name] = None
{program}
np.savez(sys.argv[2], **dequantized_weights(sys.argv[1]))
"""


class Net(nn.Module):
    """Dense, depthwise, tied and linear layers; of some channels all weights are of one sign."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.again = nn.Conv2d(8, 8, 1)
        self.again.weight = self.point.weight
        self.fc = nn.Linear(8, 5)
        with torch.no_grad():
            self.first.weight[0].abs_()
            self.first.weight[1].abs_().neg_()
            self.first.weight[2] = 0.0
            self.point.weight[3] = -0.0
            self.fc.weight *= 1e-20

    def forward(self, x):
        return self.fc(self.again(self.point(self.depthwise(self.first(x)))).mean((2, 3)))


def read_without_micronet(folder, tmp_path):
    """The weights by the page's program, in a process that has neither micronet nor torch."""
    script, out = tmp_path / "script.py", tmp_path / "weights.npz"
    script.write_text(BLOCKED.format(program=PROGRAM))
    subprocess.run([sys.executable, str(script), str(folder), str(out)], check=True)
    with np.load(out) as archive:
        return {name: archive[name].copy() for name in archive.files}


def check(model, folder, tmp_path):
    found = read_without_micronet(folder, tmp_path)
    layers = architectures.layers(load(folder, model=model()).model)
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        quantized = getattr(layer, "quantized_weight", lambda layer=layer: layer.weight)
        expected = quantized().detach().numpy()
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name].view(np.int32), expected.view(np.int32)), name


def test_the_program_is_short_and_needs_no_torch():
    lines = [line for line in PROGRAM.splitlines() if line.strip()]
    assert len(lines) <= 20 and "torch" not in PROGRAM and "micronet" not in PROGRAM


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("step", ["range", "learned", "symmetric"])
@pytest.mark.parametrize("bits", [1, 1.6, 2.4, 3, 4, 5.5, 7.9, 8])
def test_the_program_gives_the_weights_of_the_layers(bits, step, pruned, tmp_path):
    symmetric, step = step == "symmetric", "range" if step == "symmetric" else step
    if step == "learned" or symmetric:
        bits = max(bits, 1.6)
    model = Net()
    if pruned:
        micronet.prune_(model, 0.6)
    plan = dict.fromkeys(
        architectures.layers(model), LayerBits(bits, 4, weight_step=step, symmetric=symmetric)
    )
    if pruned:
        plan["first"] = LayerBits(None, None)
    convert_(model, plan)
    save(model, tmp_path / "net")
    check(Net, tmp_path / "net", tmp_path)


@pytest.mark.parametrize("step", ["range", "learned", "symmetric"])
def test_the_program_reads_a_layer_of_grey_values(step, tmp_path):
    model = Net()
    micronet.prune_(model, 0.4)
    plan = dict.fromkeys(architectures.layers(model), LayerBits(4, 4))
    plan["first"] = LayerBits(
        8,
        8,
        weight_step="learned" if step == "learned" else "range",
        symmetric=step == "symmetric",
        activation_step="image",
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
    )
    convert_(model, plan)
    save(model, tmp_path / "net")
    check(Net, tmp_path / "net", tmp_path)


def test_the_program_reads_any_number_of_levels(tmp_path):
    levels = [2, 3, 5, 6, 7, 100, 127, 255, 256]
    make = lambda: nn.Sequential(*(nn.Linear(20, 20) for _ in levels))  # noqa: E731
    model = make()
    for index, count in enumerate(levels):
        recipe = {"weights": {"levels": count}, "activations": None}
        other = {"layers": [str(i) for i in range(len(levels)) if i != index]}
        overrides = [{**other, "weights": None}]
        single = micronet.Recipe.from_dict({"quantize": {**recipe, "overrides": overrides}})
        bits = micronet.compress(make(), single).plan.bits[str(index)]
        convert_(model, {str(index): bits})
        assert model[index].weight_levels == count
    save(model, tmp_path / "net")
    check(make, tmp_path / "net", tmp_path)


def test_the_page_lists_every_key(tmp_path):
    section = PAGE.split("`config.json` has these keys")[1].split("## Without")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    save(Net(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(config)
    assert {f"`{key}`" for key in config["architecture"]} <= set(re.findall(r"`\w+`", section))
