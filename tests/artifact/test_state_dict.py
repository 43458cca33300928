"""The state dict for a network's own code: its names, the values of its weights, nothing else."""

import hashlib
import json

import pytest
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from safetensors.torch import load_file
from torch import nn

import micronet
from micronet.models import architectures
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantize import LayerBits
from packed_networks import FOUR, OFFSET, bits_of, compressed, network

SIZE = {"image_size": 48}


def exported(model, folder, **options):
    path = micronet.export(model, folder, format="torch", **(SIZE | options))
    assert path == folder / "model.safetensors"
    return load_file(path), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("arch", "make"),
    [
        ("mobilenet_v2", lambda: torchvision.models.mobilenet_v2(num_classes=10)),
        ("resnet18", lambda: torchvision.models.resnet18(num_classes=10)),
        (
            "timm:mobilenetv3_small_050",
            lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
        ),
        (
            "efficientnet-b0",
            lambda: EfficientNet.from_name("efficientnet-b0", num_classes=10, image_size=48),
        ),
    ],
)
def test_the_networks_own_code_loads_it(arch, make, tmp_path, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    fresh = micronet.create_model(arch, num_classes=10)
    weights = {name: LayerBits(4, None) for name in architectures.layers(fresh)}
    model = compressed(fresh, (3, 48, 48), weights)
    tensors, config = exported(model, tmp_path, arch=arch)
    theirs = make()
    theirs.load_state_dict(tensors, strict=True)
    for name, layer in quantized_layers(model):
        found = theirs.get_submodule(name).weight
        assert torch.equal(bits_of(found + 0.0), bits_of(layer.quantized_weight() + 0.0)), name
        assert config["layers"][name] == {"weight_levels": 16, "input": None}
    assert min(int((t == 0).sum()) / t.numel() for n, t in tensors.items() if t.dim() == 4) >= 0.55
    # Only weights were rounded, so that a network of floats computes the same up to their order.
    images = torch.randn(2, 3, 48, 48, generator=rng)
    with torch.no_grad():
        wanted, found = model(images).double(), theirs.eval().double()(images.double())
    assert (wanted - found).abs().max() <= 2.0**-12 * wanted.abs().max()


@pytest.mark.parametrize("bits", [FOUR, OFFSET, LayerBits(None, 4), LayerBits(2.4, 8)], ids=str)
def test_quantizers_are_left_out_and_told(bits, tmp_path):
    model = network("resnet20", 48, bits={"conv1": bits, "fc": LayerBits(2.4, None)})
    fresh = micronet.create_model("resnet20", num_classes=10).state_dict()
    tensors, config = exported(
        model, tmp_path, classes=list("abcdefghij"), mean=[0.5] * 3, std=[0.25] * 3
    )
    assert tensors.keys() == fresh.keys()
    assert all(
        tensors[n].dtype == t.dtype and tensors[n].shape == t.shape for n, t in fresh.items()
    )
    for name, tensor in model.state_dict().items():
        if name in fresh and name not in ("conv1.weight", "fc.weight"):
            assert torch.equal(tensors[name], tensor)
    quantizer, told = model.conv1.input_quantizer, config["layers"]["conv1"]
    assert told["weight_levels"] == bits.weight_levels
    assert told["input"]["levels"] == bits.activation_levels
    assert told["input"]["scale"] == float(quantizer.scale)
    ends = quantizer(torch.tensor([-1e9, 1e9])) * quantizer.scale + told["input"]["zero_point"]
    assert torch.equal(ends.round(), torch.tensor([0.0, bits.activation_levels - 1]))
    assert config["layers"].keys() == {"conv1", "fc"} and config["input"] == [3, 48, 48]
    assert config["about"]["classes"] == list("abcdefghij") and config["num_classes"] == 10
    content = (tmp_path / "model.safetensors").read_bytes()
    assert config["sha256"] == hashlib.sha256(content).hexdigest()
    # Metadata of several keys have no fixed order.
    assert b'"__metadata__":{"format":"pt"}' in content


def test_pruned_weights_are_zero_without_levels_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    micronet.prune_(model, 0.5)
    with torch.no_grad():
        # As an optimizer that knows nothing of masks moves them.
        model[0].weight.add_(1)
    tensors, _ = exported(model, tmp_path)
    assert int((tensors["0.weight"] == 0).sum()) == 3 * 8 * 9 // 2


def test_shared_weights_and_shared_layers_have_all_their_names(tmp_path):
    model = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))
    model.append(model[0])
    model[2].weight = model[0].weight
    model = compressed(model, (6, 12, 12), {"0": FOUR, "2": FOUR})
    tensors, _ = exported(model, tmp_path, channels=6)
    names = [f"{layer}.{end}" for layer in (0, 2, 3) for end in ("bias", "weight")]
    assert sorted(tensors) == names
    assert all(torch.equal(tensors["0.weight"], tensors[n]) for n in ("2.weight", "3.weight"))


def test_a_layer_that_reads_grey_values_has_weights_for_normalized_images(tmp_path):
    recipe = {
        "weights": {"bits": 4},
        "activations": {"bits": 4},
        "overrides": [{"layers": ["0"], "activations": {"step": "image"}}],
    }
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))
    recipe = micronet.Recipe.from_dict({"quantize": recipe})
    compression = micronet.compress(model, recipe, mean=[0.5, 0.4], std=[0.25, 0.2])
    compression.begin_epoch(0, torch.optim.SGD(model.parameters(), lr=0.1))
    model.train()(torch.randn(2, 2, 8, 8))
    tensors, config = exported(model, tmp_path, channels=2)
    layer = model[0]
    assert torch.equal(tensors["0.weight"], layer.quantized_weight() / layer.factors)
    assert config["layers"]["0"] == {"weight_levels": 16, "input": "grey values"}


class Worded(nn.Identity):
    """Its state is a text."""

    def get_extra_state(self):
        return "words"


def test_what_is_no_state_dict_is_refused(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    micronet.quantize_(model, weights=4, activations=4)
    with pytest.raises(micronet.UserError, match=r"'0\.input_quantizer' has never seen data"):
        exported(model, tmp_path)
    model = compressed(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 48, 48), {"0": FOUR})
    micronet.export(model, tmp_path / "packed", **SIZE)
    again = micronet.load_packed(tmp_path / "packed")
    with pytest.raises(micronet.UserError, match="its normalizations taken into its layers"):
        exported(again, tmp_path)
    with pytest.raises(micronet.UserError, match=r"'1\._extra_state' is no tensor with values"):
        exported(model.append(Worded()), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
