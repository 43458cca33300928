"""A network as a folder: bit for bit out of it what went into it."""

import copy
import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import micronet
import micronet_kernels as kernels
from micronet.data.preprocessing import Preprocessing, of_record, to_record
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.runs import checkpoint, directory
from micronet.runs.folder import load, save
from micronet.score import main as score
from micronet.train import main as train
from micronet.utils.errors import UserError
from shared_runs import SMALL
from tied_networks import SOURCE
from user_modules import importable

FILES = ["config.json", "model.safetensors"]


def compressed(model, *, step="range", epochs=1, images=(4, 3, 32, 32), **train_section):
    """A network that was pruned and quantized, after a few steps of training."""
    quantized = {"bits": 4, "step": step}
    recipe = micronet.Recipe.from_dict(
        {
            "train": {"epochs": epochs, **train_section},
            "prune": {
                "groups": [{"layers": ["*"], "final_sparsity": 0.5}],
                "method": "one-shot",
            },
            "quantize": {"weights": quantized, "activations": quantized},
        }
    )
    compression = micronet.compress(model, recipe)
    for _ in range(epochs):
        trained(compression, images)
    return compression


def trained(compression, images=(4, 3, 32, 32), steps=2):
    model = compression.model.train()
    compression.begin_epoch()
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.05, momentum=0.9)
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        F.cross_entropy(
            model(torch.randn(*images, generator=random)), torch.arange(len_of(images)) % 4
        ).backward()
        optimizer.step()
        compression.step()
    model.eval()


def len_of(images):
    return images[0]


@torch.no_grad()
def logits(model, side=32):
    random = torch.Generator().manual_seed(7)
    return model.eval()(torch.randn(3, 3, side, side, generator=random))


class Own(nn.Module):
    """A network that nothing of ours makes: dense, depthwise and in float, with buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("limit", torch.tensor(torch.inf))

    def forward(self, x):
        x = F.relu(self.bn(self.first(x)))
        return self.fc(self.depthwise(x).mean((2, 3)).clamp(max=self.limit))


def own(seed=0):
    torch.manual_seed(seed)
    return Own()


@pytest.fixture
def written(tmp_path):
    """The folder of a network of one's own, pruned and quantized."""
    save(compressed(own()), tmp_path / "net", image_size=32, classes=["a", "b", "c", "d"])
    return tmp_path / "net"


# Round trips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("arch", ["resnet20", "efficientnet-micro"])
def test_an_architecture_comes_back_without_being_named(arch, step, tmp_path):
    compression = compressed(micronet.create_model(arch, 10), step=step)
    save(compression, tmp_path / "net")
    loaded = load(tmp_path / "net")
    assert not loaded.model.training
    assert torch.equal(logits(loaded.model), logits(compression.model))
    assert quantize.precision_of(loaded.model) == quantize.precision_of(compression.model)
    assert loaded.compression.bits == compression.bits
    assert loaded.compression.masks.bits.keys() == compression.masks.bits.keys()
    for name, bits in compression.masks.bits.items():
        assert torch.equal(loaded.compression.masks.bits[name], bits)
    assert loaded.config["architecture"]["name"] == arch
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == FILES


def test_saved_again_it_is_the_same_bytes(written, tmp_path):
    again = load(written, model=own(1))
    save(again, tmp_path / "again")
    save(again, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (written / name).read_bytes()
    assert again.config == json.loads((written / "config.json").read_text())


def test_a_network_in_float(tmp_path):
    model = micronet.create_model("resnet20", 7, channels=1).eval()
    save(model, tmp_path, mean=[0.5], std=[0.25])
    loaded = load(tmp_path)
    assert loaded.config["architecture"] == {
        "source": "micronet",
        "name": "resnet20",
        "num_classes": 7,
        "channels": 1,
    }
    assert loaded.config["normalization"] == {"mean": [0.5], "std": [0.25]}
    assert loaded.config["precision"] == {} and loaded.config["pruned"] is None
    states = loaded.model.state_dict(), model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_others_read_the_weights_by_name(written, tmp_path):
    compression = compressed(own())
    tensors = safetensors.torch.load_file(written / "model.safetensors")
    assert torch.equal(tensors["fc.weight"], compression.model.fc.weight)
    assert torch.equal(tensors["fc.weight_mask"], compression.masks.bits["fc"])
    plain = own(1)
    missing, extra = plain.load_state_dict(tensors, strict=False)
    assert not missing and all("input_quantizer" in n or n.endswith("_mask") for n in extra)
    assert torch.equal(plain.depthwise.weight, compression.model.depthwise.weight)


def test_a_float_network_starts_from_the_weights(tmp_path):
    compression = compressed(micronet.create_model("resnet20", 10), step="learned")
    save(compression, tmp_path)
    plain = micronet.create_model("resnet20", 10)
    micronet.load_weights(plain, tmp_path / "model.safetensors")
    quantized = compression.model.state_dict()
    assert all(torch.equal(value, quantized[n]) for n, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", ["Shared", "Tied", "Alias", "sequential"])
@pytest.mark.parametrize("step", ["range", "learned"])
def test_tied_tensors_are_stored_once(kind, step, tmp_path, monkeypatch, request):
    with importable(SOURCE, tmp_path, monkeypatch, request) as module:
        custom.allow(f"{module}:{kind}")
        compression = compressed(micronet.create_model(f"{module}:{kind}", 4), step=step)
        save(compression, tmp_path / "net")
        monkeypatch.setattr(custom, "_allowed", set())
        with pytest.raises(UserError, match=r"own=True"):
            load(tmp_path / "net")
        loaded = load(tmp_path / "net", own=True)
    stored = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    tied = loaded.config["tied"]
    assert tied and not tied.keys() & stored.keys()
    for name, first in tied.items():
        assert torch.equal(compression.model.state_dict()[name], stored[first])
    assert torch.equal(logits(loaded.model), logits(compression.model))
    trained(loaded.compression)
    assert_pruned(loaded.model, loaded.compression.masks)


def test_of_an_average_the_average(tmp_path):
    compression = compressed(micronet.create_model("resnet20", 10), epochs=2, model_ema=0.9)
    save(compression, tmp_path)
    loaded = load(tmp_path)
    with compression.averaged() as model:
        assert torch.equal(logits(loaded.model), logits(model))
    assert not torch.equal(logits(loaded.model), logits(compression.model))


def test_a_network_that_is_wrapped(tmp_path):
    model = own()
    save(nn.DataParallel(model), tmp_path)
    assert torch.equal(logits(load(tmp_path, model=own(1)).model), logits(model))


def test_a_network_alone_keeps_its_masks(tmp_path):
    model = own()
    micronet.prune_(model, 0.5)
    save(model, tmp_path)
    loaded = load(tmp_path, model=own(1))
    assert loaded.compression.masks.bits.keys() == prune.Masks.of(model).bits.keys() != set()


def test_what_was_changed_since_is_of_unknown_making(tmp_path):
    model = micronet.create_model("resnet20", 10)
    model.fc = nn.Linear(64, 3)
    save(model, tmp_path / "unknown")
    with pytest.raises(UserError, match=r"making is unknown.*load\(model="):
        load(tmp_path / "unknown")
    save(model, tmp_path / "known", arch="resnet20")
    assert torch.equal(logits(load(tmp_path / "known").model), logits(model))


def without_pooling(model):
    model.maxpool = nn.Identity()


def with_another_activation(model):
    model.layer1[0].relu = nn.SiLU()


def with_another_stride(model):
    model.conv1.stride = (1, 1)


def with_a_forward(model):
    model.layer2.forward = lambda x: x[:, :, ::2, ::2].repeat(1, 2, 1, 1)


def with_one_more(model):
    model.layer4.add_module("last", nn.ReLU())


CHANGES = {
    without_pooling: "'maxpool' is a Identity, not a MaxPool2d",
    with_another_activation: "'layer1.0.relu' is a SiLU, not a ReLU",
    with_another_stride: r"'conv1' has stride \(1, 1\), not \(2, 2\)",
    with_a_forward: "'layer2' has a forward of its own",
    with_one_more: "'layer4.last' is only in it",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_no_tensor_shows_is_not_passed_over(change, tmp_path):
    """Another network would come back in silence."""
    model = micronet.create_model("resnet18", 5)
    change(model)
    refused(
        f"the network is no resnet18 of 5 .*{CHANGES[change]}", model, tmp_path, arch="resnet18"
    )
    save(model, tmp_path / "net")
    with pytest.raises(UserError, match="making is unknown"):
        load(tmp_path / "net")
    fresh = micronet.create_model("resnet18", 5)
    change(fresh)
    assert torch.equal(logits(load(tmp_path / "net", model=fresh).model), logits(model))


def test_what_training_alone_asks_for_may_be_changed(tmp_path):
    model = micronet.create_model("efficientnet-micro", 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    model.train()
    save(model, tmp_path)
    assert torch.equal(logits(load(tmp_path).model), logits(model))


def test_a_network_of_timm(tmp_path):
    compression = compressed(micronet.create_model("timm:mobilenetv3_small_050", 10))
    save(compression, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config["architecture"]["source"] == "timm"
    assert loaded.config["architecture"]["name"] == "mobilenetv3_small_050"
    assert torch.equal(logits(loaded.model), logits(compression.model))


def test_a_copy_is_of_the_architecture_that_is_given(tmp_path):
    model = copy.deepcopy(micronet.create_model("resnet18", 5))
    save(model, tmp_path, arch="resnet18")
    loaded = load(tmp_path)
    assert loaded.config["architecture"]["source"] == "torchvision"
    assert torch.equal(logits(loaded.model), logits(model))


# Afterwards ---------------------------------------------------------------------------------------


def assert_pruned(model, masks):
    layers = architectures.layers(model)
    assert masks.bits
    for name, bits in masks.bits.items():
        keep = kernels.unpack_bits(bits, layers[name].weight.numel())
        assert not layers[name].weight.detach().flatten()[~keep].any()
        assert layers[name].weight.detach().flatten()[keep].all()


def test_zeros_stay_when_it_is_trained_on(written):
    loaded = load(written, model=own(1))
    before = logits(loaded.model)
    trained(loaded.compression)
    assert not torch.equal(logits(loaded.model), before)
    assert_pruned(loaded.model, loaded.compression.masks)


def test_any_optimizer_will_do_where_no_step_is_learned(written):
    loaded = load(written, model=own(1))
    loaded.compression.begin_epoch()
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.1)
    loaded.model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    loaded.compression.step()
    assert_pruned(loaded.model, loaded.compression.masks)


def test_zeros_stay_wherever_it_is_moved(written):
    loaded = load(written, model=own(1))
    for device in ("meta", "cpu"):
        moved = copy.deepcopy(loaded.model).to(device)
        if device == "cpu":
            moved.fc.weight.data.fill_(1.0)
        loaded.compression.masks.apply_(moved)
    assert_pruned(moved, loaded.compression.masks)


def test_it_is_compressed_again(written):
    loaded = load(written, model=own(1))
    section = {"groups": [{"layers": ["*"], "final_sparsity": 0.8}], "method": "one-shot"}
    again = micronet.compress(loaded.model, micronet.Recipe.from_dict({"prune": section}))
    trained(again)
    assert_pruned(loaded.model, again.masks)
    for name, bits in loaded.compression.masks.bits.items():
        assert not (again.masks.bits[name] & ~bits).any()


def test_the_recipe_goes_along(tmp_path):
    recipe = micronet.Recipe.load("cifar10_resnet20_qat")
    save(micronet.create_model("resnet20", 10), tmp_path, recipe=recipe)
    plain = load(tmp_path).config["recipe"]
    assert micronet.Recipe.from_dict(plain).to_dict() == recipe.to_dict()
    save(micronet.create_model("resnet20", 10), tmp_path, recipe=plain)
    assert load(tmp_path).config["recipe"] == plain


# Runs and commands --------------------------------------------------------------------------------


@pytest.fixture
def of_run(fitted, tmp_path):
    save(load(fitted), tmp_path / "net")
    return tmp_path / "net"


def test_a_run_becomes_a_folder(fitted, of_run):
    run, loaded = load(fitted), load(of_run)
    assert torch.equal(logits(run.model, 8), logits(loaded.model, 8))
    assert run.config.items() <= loaded.config.items()
    assert loaded.config["image_size"] == 8 and len(loaded.config["classes"]) == 10
    assert loaded.config["recipe"]["train"]["epochs"] == 2
    assert load(fitted / "best.safetensors").config["recipe"] is None


def test_images_are_prepared_as_the_run_prepared_them(fitted, tmp_path):
    found = checkpoint.load(fitted / "best.safetensors")
    wanted = Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9, True)
    meta = {**found.meta, "preprocessing": to_record(wanted)}
    checkpoint.save(tmp_path / "x.safetensors", found.tensors, meta)
    save(load(tmp_path / "x.safetensors"), tmp_path / "net")
    assert of_record(directory.read(tmp_path / "net").meta) == wanted
    save(load(tmp_path / "net"), tmp_path / "again", mean=[0.5] * 3, std=[0.5] * 3)
    other = Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
    assert of_record(directory.read(tmp_path / "again").meta) == other


def test_commands_take_a_folder(fitted, of_run, tmp_path, capsys):
    answers = {}
    for source in (fitted, of_run):
        assert train(["eval", str(source), "--data", "digits", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert score([str(source), "--json"]) == 0
        found["score"] = json.loads(capsys.readouterr().out)["score"]
        answers[source] = {key: value for key, value in found.items() if key != "network"}
    assert answers[fitted] == answers[of_run]
    assert train(["summary", str(of_run)]) == 0
    out = tmp_path / "prune"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("prune: {method: one-shot, groups: [{layers: ['*'], final_sparsity: 0.5}]}")
    arguments = ["prune", "--from", str(of_run), "--schedule", str(recipe), "--out", str(out)]
    assert train([*arguments, "--data", "digits", "--epochs", "1", *SMALL]) == 0
    assert_pruned(load(out).model, load(out).compression.masks)


def test_commands_ask_for_the_images(of_run, tmp_path, capsys):
    for command in (["eval"], ["prune", "--schedule", "demo_prune", "--out", tmp_path / "x"]):
        where = [of_run] if command == ["eval"] else ["--from", of_run]
        assert train([str(word) for word in (*command, *where)]) == 2
        assert "does not say what images it was trained on: give --data" in capsys.readouterr().err
    save(micronet.create_model("resnet20", 10), tmp_path / "net")
    assert train(["summary", str(tmp_path / "net")]) == 2
    assert "does not say its image size: give --image-size" in capsys.readouterr().err
    assert score([str(tmp_path / "net")]) == 2
    assert "does not say its image size" in capsys.readouterr().err


def test_commands_cannot_make_what_is_unknown(written, capsys):
    assert train(["eval", str(written), "--data", "digits"]) == 2
    assert "making is unknown" in capsys.readouterr().err


# What is not saved --------------------------------------------------------------------------------


def refused(match, network, where, **about):
    before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=match) as error:
        save(network, where, **about)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in where.rglob("*") if p.is_file()} == before


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


# What is not loaded -------------------------------------------------------------------------------


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
    "true": (lambda c: c.update(format=True), "format must be a whole number, not True"),
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
