"""What cannot be saved, and what is not loaded."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import micronet
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.runs import checkpoint
from micronet.runs.folder import load, save
from micronet.utils.errors import UserError
from saved_folders import FILES, Own, compressed, own, refused


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"image_size": 0}, "image_size 0"),
        ({"image_size": "x"}, "image_size must be a whole number"),
        ({"classes": ["a", 1]}, r"classes\[1\] must be text"),
        ({"classes": ["a"] * 9}, "9 names for 10 classes"),
        ({"classes": "ten"}, "classes as a list, not 'ten'"),
        ({"classes": 10}, "classes as a list, not 10"),
        ({"mean": 0.5, "std": 0.5}, "mean as a list, not 0.5"),
        ({"mean": [0.5] * 3}, "mean and std together"),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, "normalization: each std"),
        ({"mean": [0.5], "std": [0.1] * 3}, "1 means, but 3 deviations"),
        ({"recipe": {"prune": {}}}, "prune.groups"),
        ({"recipe": 3}, "holds no sections"),
        ({"arch": "resnet32"}, "the network is no resnet32 of 10 classes"),
        ({"arch": "resnet21"}, "there is no architecture 'resnet21'"),
        ({"arch": 18}, "there is no architecture 18"),
    ],
)
def test_wrong_arguments(about, match, tmp_path):
    refused(match, micronet.create_model("resnet20", 10), tmp_path, **about)


@pytest.mark.parametrize("call", [load, lambda folder: save(own(), folder)])
@pytest.mark.parametrize("folder", [None, 3, b"net"])
def test_what_is_no_path(call, folder):
    with pytest.raises(UserError, match=r"a folder is a path, not (None|3|b'net')"):
        call(folder)


def test_statistics_may_be_tensors_and_arrays(tmp_path):
    save(own(), tmp_path, mean=torch.full((3,), 0.5), std=np.full(3, 0.25))
    said = json.loads((tmp_path / "config.json").read_text())["normalization"]
    assert said == {"mean": [0.5] * 3, "std": [0.25] * 3}


def test_folders_of_something_else(tmp_path, fitted, written):
    for text in ('{"architectures": ["ResNet"], "format": 1}', "[]", "{", '{"format": NaN}'):
        (tmp_path / "config.json").write_text(text)
        refused("config.json' is", own(), tmp_path)
    refused("of something else", own(), fitted)
    with pytest.raises(UserError, match="cannot make folder"):
        save(own(), written / "config.json")


def test_other_files_of_a_folder_stay(written):
    (written / "README.md").write_text("mine")
    (written / "config.json").write_text(
        json.dumps(json.loads((written / "config.json").read_text()) | {"format": 99})
    )
    save(own(), written)
    assert (written / "README.md").read_text() == "mine" and load(written, model=own(1))


def test_a_disk_that_is_full_leaves_what_was_there(written, monkeypatch):
    def full(path, content):
        if path.name.startswith("config"):
            raise OSError(28, "No space left on device")
        path.write_bytes(content[:5])

    monkeypatch.setattr(checkpoint, "_write", full)
    refused("No space left on device", own(3), written)


class Stateful(Own):
    def get_extra_state(self):
        return {"a": 1}


class Named(Own):
    def __init__(self):
        super().__init__()
        self.fc.register_buffer("weight_mask", torch.ones(4))


def test_networks_that_no_file_holds(tmp_path):
    refused("torch network, not int", 3, tmp_path)
    refused("but a file holds tensors alone", Stateful(), tmp_path)
    refused("meta device", own().to("meta"), tmp_path)
    broken = own()
    broken.fc.bias.data[0] = torch.nan
    refused("'fc.bias' holds values that are not finite", broken, tmp_path)
    unreal = own()
    unreal.phase = nn.Parameter(torch.tensor([1j, complex(0.0, torch.nan)]))
    refused("'phase' holds values that are not finite", unreal, tmp_path)
    tied = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4))
    tied[1].weight = tied[0][0].weight
    micronet.quantize_(tied[0])
    refused(r"layers '0\.0' and '1' hold one weight, which cannot be of 4 bits", tied, tmp_path)
    named = Named()
    save(named, tmp_path)
    assert load(tmp_path, model=Named())
    micronet.prune_(named, 0.5)
    refused("has a tensor 'fc.weight_mask' already", named, tmp_path)
    pruned = own()
    micronet.prune_(pruned, 0.5)
    pruned.fc.weight.data.fill_(1.0)
    refused("mask of layer 'fc' prunes weights that are not zero", pruned, tmp_path)


def rewritten(where, change, tensors=None):
    """Change a folder's configuration, and its tensors with a checksum that fits them."""
    path, weights = where / "config.json", where / "model.safetensors"
    config = json.loads(path.read_text())
    state = safetensors.torch.load_file(weights)
    if tensors is not None:
        tensors(state)
        safetensors.torch.save_file(state, weights)
        config["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    change(config)
    path.write_text(json.dumps(config))


def check_refusal(where, match, model=None):
    with pytest.raises(UserError, match=match) as error:
        load(where, model=model or own(1))
    assert "\n" not in str(error.value) and str(where) in str(error.value), error.value


CONFIGS = {
    "no format": (lambda c: c.pop("format"), "config.json' does not describe a network"),
    "a later format": (lambda c: c.update(format=2), "format 2, this program reads 1"),
    "format of text": (lambda c: c.update(format="1"), "format '1'"),
    "true": (lambda c: c.update(format=True), "format must be a whole number, not true"),
    "unknown key": (lambda c: c.update(size=3), "config.json: unknown key 'size'"),
    "no recipe": (lambda c: c.pop("recipe"), "config.json: key 'recipe' is missing"),
    "no architecture's name": (
        lambda c: c["architecture"].pop("name"),
        "config.json: key 'architecture.name' is missing",
    ),
    "architecture": (lambda c: c.update(architecture=[]), "architecture must be a mapping"),
    "source": (lambda c: c["architecture"].update(source="x"), "'x' has no network None"),
    "name": (
        lambda c: c["architecture"].update(name="resnet20"),
        "'own' has no network 'resnet20'",
    ),
    "code": (
        lambda c: c["architecture"].update(name="os:abort"),
        "num_classes of 'os:abort' cannot be None",
    ),
    "classes": (lambda c: c.update(classes="abcd"), "classes must be a list"),
    "image_size": (lambda c: c.update(image_size=-1), "image_size -1"),
    "normalization": (lambda c: c.update(normalization=3), "normalization must be a mapping"),
    "precision": (lambda c: c.update(precision=[]), "precision must be a mapping"),
    "a layer's precision": (
        lambda c: c["precision"].update(fc=4),
        "precision.fc must be a mapping, not 4",
    ),
    "bits": (
        lambda c: c["precision"]["fc"].update(weight_bits=9),
        "precision.fc: weight_bits is 9",
    ),
    "bits of text": (
        lambda c: c["precision"]["fc"].update(weight_bits="4"),
        "precision.fc.weight_bits must be a number, not '4'",
    ),
    "huge bits": (
        lambda c: c["precision"]["fc"].update(weight_bits=10**400),
        "weight_bits is too large",
    ),
    "decay": (lambda c: c["precision"]["fc"].update(decay=2), "decay is 2.0"),
    "step": (lambda c: c["precision"]["fc"].update(weight_step="x"), "weight_step is 'x'"),
    "few levels": (
        lambda c: c["precision"]["fc"].update(weight_step="learned", weight_bits=1),
        "too few for a learned step",
    ),
    "another step": (
        lambda c: c["precision"]["fc"].update(weight_step="learned"),
        "'fc.weight_step' is absent there",
    ),
    "an input in float": (
        lambda c: c["precision"]["fc"].update(activation_bits=None),
        "'fc.input_quantizer.ema' is",
    ),
    "a layer that is not there": (
        lambda c: c["precision"].update(fd=c["precision"]["fc"]),
        "'fd' is no layer of this network",
    ),
    "a mask that is not there": (
        lambda c: c["pruned"].append("bn"),
        "pruned wants a tensor 'bn.weight_mask', which model.safetensors does not hold",
    ),
    "masks": (lambda c: c.update(pruned={}), "pruned must be a list"),
    "a mask too much": (lambda c: c["pruned"].remove("fc"), "'fc.weight_mask' is"),
    "ties": (lambda c: c.update(tied={"a": "b"}), "tied wants a tensor 'b'"),
    "recipe": (lambda c: c.update(recipe={"prune": 3}), "config.json: prune must be a mapping"),
    "versions": (lambda c: c.update(versions={"torch": 2}), "versions.torch must be text"),
    "checksum": (lambda c: c.update(sha256=None), "is damaged or of another save"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_configurations(name, written):
    change, match = CONFIGS[name]
    rewritten(written, change)
    check_refusal(written, match)


def same_value(value):
    return lambda tensor: tensor.fill_(value)


TENSORS = {
    "nan": ("fc.bias", same_value(torch.nan), "'fc.bias' holds values that are not finite"),
    "infinity": ("first.weight", same_value(torch.inf), "'first.weight' holds values that are"),
    "nan in a buffer": ("limit", same_value(torch.nan), "'limit' holds values that are not"),
    "range": ("fc.input_quantizer.range", same_value(torch.nan), "which is no range"),
    "counter": ("fc.input_quantizer.step", same_value(-1), "'fc.input_quantizer.step' is -1"),
    "mask": ("fc.weight_mask", same_value(0), "'fc' prunes weights that are not zero"),
    "shape": ("fc.bias", lambda t: t[:3].clone(), r"'fc.bias' is \(3,\) there and \(4,\) in Own"),
    "type": ("fc.bias", lambda t: t.long(), "'fc.bias' is torch.int64 there"),
    "mask's size": ("fc.weight_mask", lambda t: t[:3].clone(), "mask 'fc' has 3 bytes for 32"),
    "mask's type": ("fc.weight_mask", lambda t: t.long(), "mask 'fc' has 4 bytes for 32"),
    "mask's axes": ("fc.weight_mask", lambda t: t[None].clone(), "mask 'fc' has 4 bytes for 32"),
    "missing": ("fc.weight", lambda t: None, "'fc.weight' is absent there"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_tensors(name, written):
    key, change, match = TENSORS[name]

    def tensors(state):
        changed = change(state.pop(key))
        state.update({} if changed is None else {key: changed})

    rewritten(written, lambda config: None, tensors)
    check_refusal(written, match)


@pytest.mark.parametrize("value", [0.5, torch.inf, -16.0, 1.0, -torch.inf])
def test_zero_points_that_are_none(value, tmp_path):
    save(compressed(own(), step="learned"), tmp_path)
    key = "fc.input_quantizer.zero_point"
    rewritten(tmp_path, lambda config: None, lambda state: state[key].fill_(value))
    check_refusal(tmp_path, f"'{key}' is .*no zero point of 16 levels")


@pytest.mark.parametrize("value", [0.0, -1.0, torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["fc.weight_step", "fc.input_quantizer.step_size"])
def test_steps_that_are_none(key, value, tmp_path):
    save(compressed(own(), step="learned"), tmp_path)
    rewritten(tmp_path, lambda config: None, lambda state: state[key].fill_(value))
    check_refusal(tmp_path, f"'{key}' holds a step that is not positive")


def test_quantizers_that_have_seen_no_image(tmp_path):
    model = own()
    learned = micronet.WeightPrecision(4, step="learned")
    micronet.quantize_(model, learned, micronet.ActivationPrecision(4, step="learned"))
    save(model, tmp_path)
    loaded = load(tmp_path, model=own(1)).model
    assert quantize.uninitialized(loaded) == quantize.uninitialized(model) != []
    weights = [
        [layer.quantized_weight() for _, layer in quantized_layers(m)] for m in (model, loaded)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_cut_short(name, keep, written):
    (written / name).write_bytes((written / name).read_bytes()[:keep])
    check_refusal(written, f"{name}' is damaged|{name}' does not describe")


def test_tensors_that_are_none_with_a_checksum_that_fits(written):
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 40, b"x" * 9):
        (written / "model.safetensors").write_bytes(content)
        config = json.loads((written / "config.json").read_text())
        config["sha256"] = hashlib.sha256(content).hexdigest()
        (written / "config.json").write_text(json.dumps(config))
        check_refusal(written, "is no safetensors file|pruned wants a tensor")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "\xff", '{"format": NaN}', "null", '{"a": 1}', "9" * 5000]
)
def test_no_json(text, written):
    (written / "config.json").write_bytes(text.encode("latin-1"))
    check_refusal(written, "config.json' (is damaged|does not describe)")


@pytest.mark.parametrize("key", ["num_classes", "channels"])
@pytest.mark.parametrize("value", [10**9, 10**30, 0, -1, "10", 11])
def test_numbers_that_do_not_fit_take_no_memory(key, value, tmp_path):
    save(micronet.create_model("resnet20", 10), tmp_path)
    rewritten(tmp_path, lambda config: config["architecture"].update({key: value}))
    with pytest.raises(UserError, match=f"{key}|another architecture|cannot be created") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["os:abort", "resnet99", "../x", "timm:x", "a\nb", ""])
def test_names_start_nothing(name, tmp_path):
    save(micronet.create_model("resnet20", 10), tmp_path)
    source = "own" if ":" in name else "torchvision"
    rewritten(tmp_path, lambda config: config["architecture"].update(name=name, source=source))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_models_that_cannot_take_it(written, tmp_path):
    with pytest.raises(UserError, match="is no layer of this network"):
        load(written, model=nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(UserError, match="torch network as model, not str"):
        load(written, model="resnet20")
    with pytest.raises(UserError, match="compressed already"):
        load(written, model=compressed(own()).model)
    with pytest.raises(UserError, match="no run or checkpoint"):
        load(tmp_path / "nothing")
    (written / "config.json").unlink()
    check_refusal(written, "cannot read .*config.json")


def test_the_recipe_of_a_compression_is_kept(tmp_path):
    half = {"layers": ["*"], "final_sparsity": 0.5}
    recipe = micronet.Recipe.from_dict({"prune": {"method": "one-shot", "groups": [half]}})
    compression = micronet.compress(architectures.create_model("resnet20", 10), recipe)
    compression.begin_epoch()
    micronet.save(compression, tmp_path / "net")
    assert micronet.load(tmp_path / "net").config["recipe"] == recipe.to_dict()
