"""What is saved comes back bit for bit, and goes on; runs become folders, which commands take."""

import copy
import json

import pytest
import safetensors.torch
import torch
from torch import nn

import micronet
import micronet_kernels as kernels
from micronet.data.preprocessing import Preprocessing, of_record, to_record
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.runs import checkpoint, directory
from micronet.runs.folder import load, save
from micronet.score import main as score
from micronet.train import main as train
from micronet.utils.errors import UserError
from saved_folders import FILES, compressed, logits, own, refused, trained
from shared_runs import SMALL
from tied_networks import SOURCE
from user_modules import importable


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


@pytest.mark.slow
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
