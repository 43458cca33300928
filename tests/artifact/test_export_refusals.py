"""What cannot be exported, or told of a network, is one sentence; what can be told comes back."""

import numpy as np
import pytest
import torch
from torch import nn

import micronet
from devices import DEVICE
from micronet.utils.errors import UserError

SIDE = 6


class Plain(nn.Module):
    """A quantized layer before the output, unless ``reads`` says otherwise."""

    def __init__(self, reads=True, alone=False):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.aside = nn.Conv2d(3, 4, 1)
        self.reads, self.alone = reads, alone

    def forward(self, x):
        found = self.first(x)
        if not self.reads:
            found = self.aside(x)
        logits = self.last(found.mean((2, 3)))
        return 2 * logits if self.alone and len(x) == 1 else logits


def quantized(model, scale=1.0, floats=("aside", "last")):
    micronet.quantize_(model, 4, 4, floats=floats)
    model.train()(scale * torch.rand(4, 3, SIDE, SIDE) - 0.5 * scale)
    return model.eval()


def refused(model, folder, sentence, **more):
    with pytest.raises(UserError, match=sentence) as error:
        micronet.export(model, folder, image_size=SIDE, **more)
    assert "\n" not in str(error.value) and not list(folder.iterdir())


def test_networks_that_cannot_be_exported(tmp_path):
    nothing = "Plain cannot be exported: nothing that its output reads is quantized"
    refused(quantized(Plain(reads=False)), tmp_path, nothing)
    other = "Plain: the packed graph gives other logits than the network"
    refused(quantized(Plain(alone=True)), tmp_path, other)
    tiny = "Plain cannot be exported: the input of layer 'first' has no finite scale"
    refused(quantized(Plain(), scale=1e-40), tmp_path, tiny)


@pytest.mark.device
def test_a_network_on_a_device_is_to_be_moved(tmp_path):
    moved = r"Plain cannot be exported: 'first.weight' is on .*; move it to the CPU by cpu\(\)"
    refused(quantized(Plain()).to(DEVICE), tmp_path, moved)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"mean": [0.5] * 3}, "std is None, but images have 3 channels"),
        ({"std": [0.5] * 3}, "mean is None, but images have 3 channels"),
        ({"mean": [0.5], "std": [0.5]}, "mean is 1 numbers, but images have 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}, "std has 0.0, with which no image can be"),
        ({"mean": [0.5] * 3, "std": [-1.0] * 3}, "std has -1.0, with which no image can be"),
        ({"mean": [0.5] * 3, "std": [1e-46] * 3}, "std has 1e-46, with which no image can be"),
        ({"mean": [float("nan")] * 3, "std": [1.0] * 3}, "mean has nan, with which no image can"),
        ({"mean": [1e300] * 3, "std": [1.0] * 3}, "mean has 1e\\+300, with which no image can"),
        ({"classes": ["caf\udce9", *"abcd"]}, "'caf\\\\udce9' is no text in UTF-8"),
        ({"classes": [1, 2, 3, 4, 5]}, "1 is no text in UTF-8"),
        ({"classes": ["a"]}, "Plain has 5 logits, but 1 classes are named"),
        ({"arch": "\ud800"}, "'\\\\ud800' is no text in UTF-8"),
        ({"channels": 0}, "channels is 0, but must be a positive whole number"),
        ({"channels": 3.0}, "channels is 3.0, but must be a positive whole number"),
    ],
)
def test_what_cannot_be_told_of_a_network(told, sentence, tmp_path):
    refused(quantized(Plain()), tmp_path, sentence, **told)


@pytest.mark.parametrize("side", [0, -3, 6.0, "6"])
def test_sides_that_no_image_has(side, tmp_path):
    with pytest.raises(UserError, match=r"image_size is .*, but must be a positive whole number"):
        micronet.export(quantized(Plain()), tmp_path, image_size=side)


def test_what_is_told_comes_back_and_is_shown_in_a_line(tmp_path):
    told = {"mean": [0.5, 0.25, 0.0], "std": [0.25] * 3, "classes": list("abcde")}
    packed = micronet.export(quantized(Plain()), tmp_path, image_size=np.int64(SIDE), **told)
    engine = micronet.Engine(tmp_path, threads=np.int64(2))
    pixels = np.arange(3 * SIDE * SIDE, dtype=np.uint8).reshape(1, 3, SIDE, SIDE)
    normalized = (pixels - 255 * np.float32([0.5, 0.25, 0]).reshape(3, 1, 1)) / np.float32(63.75)
    assert np.array_equal(engine.run_pixels(pixels), engine(normalized.astype(np.float32)))
    assert engine.classes == tuple("abcde")
    layers = len(packed.document.layers)
    assert repr(packed) == f"Packed('Plain' in {str(packed.path)!r}, {layers} layers)"


def test_a_folder_in_a_files_place_leaves_the_other_file(tmp_path):
    model = quantized(Plain())
    micronet.export(model, tmp_path, image_size=SIDE)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*config\.json': Is a directory"):
        micronet.export(quantized(Plain(), 3.0), tmp_path, image_size=SIDE)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
