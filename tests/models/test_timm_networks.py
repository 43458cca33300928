"""Networks of timm: built, named in runs and plans, and given weights."""

import argparse
import json
import sys

import pytest
import safetensors.torch
import timm
import torch
import yaml

import micronet.score as score
from image_folders import make_folder
from micronet import report
from micronet.data.preprocessing import Preprocessing
from micronet.models import architectures, custom, timm_networks
from micronet.runs import directory
from micronet.train import main
from micronet.utils.errors import UserError

ARCH = "timm:mobilenetv3_small_050"
TINY = "timm:test_efficientnet"
SMALL = ["--image-size", "32", "--batch-size", "250", "--threads", "1", "--epochs", "1"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_classes_channels_and_devices(device):
    with torch.device(device):
        model = architectures.create_model(ARCH, 7, channels=1).eval()
        images = torch.zeros(2, 1, 64, 64)
    logits = model(images)
    assert logits.shape == (2, 7) and logits.device.type == device


def test_what_cannot_compute_on_the_meta_device_is_moved_there():
    """Its constructor reads the rates of its stochastic depth."""
    with torch.device("meta"):
        model = architectures.create_model("timm:nextvit_small", 7)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_its_own_image_size():
    assert architectures.default_image_size(ARCH) == 224
    assert architectures.default_image_size("timm:test_efficientnet") == 160


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ("timm:resnt18", "no architecture 'timm:resnt18'; did you mean 'timm:resnet18'"),
        ("timm:hf-hub:timm/resnet18", "there is no architecture 'timm:hf-hub:"),
        ("timm:../resnet18", "there is no architecture"),
        ("timm:", "there is no architecture 'timm:'"),
        ("timm:resnet18.nothing", "no such weights as 'timm:resnet18.nothing': Invalid .*nothing"),
    ],
)
def test_names_that_timm_has_not(arch, text):
    for use in (
        lambda: architectures.create_model(arch, 7),
        lambda: architectures.default_image_size(arch),
    ):
        with pytest.raises(UserError, match=text):
            use()


def test_without_timm_one_sentence_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["fit", "--arch", ARCH, *SMALL, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "pip install micronet[timm]" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("no weights exist\nfor it")])
def test_no_download_is_one_sentence(error, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(
        UserError, match=f"^cannot fetch the published weights of {ARCH}: "
    ) as caught:
        architectures.create_model(ARCH, 7, pretrained=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="need 3 channels, not 1"):
        architectures.create_model(ARCH, 7, channels=1, pretrained=True)


def test_pretrained_weights_are_fetched_by_timm_with_a_new_head(monkeypatch):
    published = timm.create_model("mobilenetv3_small_050", num_classes=1000).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: published)
    model = architectures.create_model(ARCH, 7, pretrained=True)
    assert torch.equal(model.conv_stem.weight, published["conv_stem.weight"])
    assert model.classifier.out_features == 7


def as_safetensors(state, path):
    safetensors.torch.save_file(state, path)


def as_training_checkpoint(state, path):
    """What timm's own training script writes, whose options are an object of a class."""
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    args = argparse.Namespace(model="mobilenetv3_small_050")
    torch.save({"arch": "x", "args": args, "state_dict": zeros, "state_dict_ema": state}, path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("w.safetensors", as_safetensors), ("w.pth", torch.save), ("w.tar", as_training_checkpoint)],
)
def test_weights_in_timms_files(name, write, tmp_path):
    state = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    write(state, str(tmp_path / name))
    model = architectures.create_model(ARCH, 7)
    architectures.load_weights(model, tmp_path / name)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_it_is_no_code_of_a_users_own(monkeypatch):
    monkeypatch.setattr(custom, "_allowed", set())
    assert timm_networks.is_timm(ARCH) and not custom.is_own(ARCH)
    custom.allow(ARCH, "net:build")
    assert custom._allowed == {"net:build"}


@pytest.mark.slow
def test_from_fit_to_report(tmp_path, capsys):
    fit, qat = str(tmp_path / "fit"), str(tmp_path / "qat")
    recipe, plan = tmp_path / "recipe.yaml", tmp_path / "plan.yaml"
    prune = {"end_epoch": 1, "groups": [{"layers": ["blocks.*"], "final_sparsity": 0.5}]}
    quantize = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    recipe.write_text(yaml.safe_dump({"prune": prune, "quantize": quantize}))
    plan.write_text(yaml.safe_dump({"arch": TINY, "image_size": 64, "quantize": quantize}))
    assert main(["fit", "--arch", TINY, *SMALL, "--out", fit]) == 0
    taught = ["--teacher", fit, "--schedule", str(recipe)]
    assert main(["qat", "--from", fit, *taught, *SMALL, "--out", qat]) == 0
    for command in (["eval", qat], ["summary", qat], ["schedule", str(recipe), "--arch", TINY]):
        assert main(command) == 0, capsys.readouterr().err
    assert score.main([qat]) == 0 and score.main([str(plan)]) == 0
    assert report.main([fit, qat]) == 0


@pytest.mark.slow
def test_a_checkpoint_says_how_its_images_are_prepared(tmp_path, capsys):
    """By another mean than the data's own; eval and the next stage go by the record."""
    arch, root, fit = "timm:test_resnet", make_folder(tmp_path / "data", 80), tmp_path / "fit"
    options = ["--data", str(root), "--batch-size", "4", "--threads", "1", "--epochs", "1"]
    assert main(["fit", "--arch", arch, *options, "--out", str(fit)]) == 0
    meta = directory.load(fit).meta
    assert meta["image_size"] == 160
    assert meta["preprocessing"] == json.loads(json.dumps(vars(architectures.preprocessing(arch))))
    assert meta["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    capsys.readouterr()
    assert main(["eval", str(fit), "--json"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    weights = ["--arch", arch, "--weights", str(fit / "best.safetensors")]
    options = ["--data", str(root), "--image-size", "160", "--json"]
    assert main(["eval", *weights, *options]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == of_run["loss"]
    again = tmp_path / "again"
    assert (
        main(
            [
                "fit",
                "--from",
                str(fit),
                *options[:2],
                "--batch-size",
                "4",
                "--epochs",
                "1",
                "--out",
                str(again),
            ]
        )
        == 0
    )
    assert directory.load(again).meta["preprocessing"] == meta["preprocessing"]


def test_ways_of_preparing_images_that_are_unknown(monkeypatch):
    def configured(**changed):
        config = timm.data.resolve_data_config(pretrained_cfg={"mean": None}) | changed
        monkeypatch.setattr("timm.data.resolve_data_config", lambda **_: config)

    for changed, text in (
        ({"crop_mode": "border"}, "cropped by 'border', which is unknown"),
        ({"input_size": (3, 64, 32)}, "64x32, but only square ones"),
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos'"),
    ):
        configured(**changed)
        with pytest.raises(UserError, match=text):
            architectures.preprocessing(ARCH)
        monkeypatch.undo()


def test_networks_of_other_names_leave_images_to_the_data():
    assert architectures.preprocessing("resnet18") is architectures.preprocessing(None) is None
    assert isinstance(architectures.preprocessing(ARCH), Preprocessing)
