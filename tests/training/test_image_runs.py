"""Runs whose first layer reads grey values: trained, stopped, resumed, evaluated, scored."""

import csv
import json

import pytest
import torch
import yaml

import micronet
import micronet.score as score
from micronet.data.datasets import open_data
from micronet.data.preprocessing import CIFAR_STATISTICS
from micronet.quantization.images.layer import ImageConv2d
from micronet.report import main as report
from micronet.runs import checkpoint, directory
from micronet.train import main
from shared_runs import THREE_STEPS, qat_command

LEARNED = {"bits": 4, "step": "learned"}
RECIPE = {
    "train": {"epochs": 3, "lr": 0.03, "model_ema": 0.9, "reestimate_batches": 2},
    "prune": {"end_epoch": 2, "groups": [{"layers": ["*"], "final_sparsity": 0.4}]},
    "quantize": {
        "weights": LEARNED,
        "activations": LEARNED,
        "start_epoch": 1,
        "overrides": [
            {"layers": ["conv1"], "weights": {"bits": 8}, "activations": {"step": "image"}},
        ],
    },
    "augment": {"mixup": 0.2},
}


@pytest.fixture(scope="module")
def command(shallow, tmp_path_factory):
    return qat_command(shallow, tmp_path_factory.mktemp("recipe"), RECIPE, THREE_STEPS)


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "qat"
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_the_run_knows_how_its_images_are_made(whole):
    loaded = directory.load(whole)
    layer = loaded.model.conv1
    assert isinstance(layer, ImageConv2d) and layer.is_exact
    assert (layer.bits.image_mean, layer.bits.image_std) == CIFAR_STATISTICS
    data = open_data("digits", image_size=8, batch_size=100, seed=0, trained=False)
    images, _ = next(data.test())
    mean, std = (255 * torch.tensor(row).view(3, 1, 1) for row in CIFAR_STATISTICS)
    grey = torch.round(images * std + mean)
    codes = layer.input_quantizer.codes(images, 0).codes
    assert torch.equal(codes.view(len(images), 8, 8, 3).permute(0, 3, 1, 2).float(), grey)
    with open(whole / "layers.csv") as file:
        rows = {row["layer"]: row for row in csv.DictReader(file)}
    assert rows["conv1"]["input_step"] == "image" and rows["conv1"]["arithmetic"] == "integer"
    assert rows["fc"]["input_step"] == "learned"


def test_it_is_evaluated_scored_and_reported(whole, capsys):
    capsys.readouterr()
    assert main(["eval", str(whole), "--json"]) == 0
    first = json.loads(capsys.readouterr().out) | {"loss": 0}
    assert main(["eval", str(whole), "--json", "--batch-size", "7"]) == 0
    # The mean of the losses has another order.
    assert json.loads(capsys.readouterr().out) | {"loss": 0} == first
    for kind in ("32", "proven", "tree"):
        assert score.main([str(whole), "--json", "--accumulator", kind]) == 0
    assert report([str(whole)]) == 0


def test_a_stopped_run_repeats_the_undisturbed_one_bit_for_bit(
    command, whole, tmp_path, monkeypatch
):
    """Three steps an epoch; the fifth is the second with quantized layers."""
    out, real, taken = tmp_path / "stopped", torch.optim.SGD.step, []

    def step(self, *args, **kwargs):
        taken.append(0)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        assert main([*command, "--out", str(out), "--checkpoint-every", "1"]) == 130
    assert main(["qat", "--out", str(out), "--resume", "--threads", "1"]) == 0
    for name in ("last", "best"):
        one, two = (checkpoint.load(run / f"{name}.safetensors") for run in (whole, out))
        assert one.tensors.keys() == two.tensors.keys()
        assert [k for k in one.tensors if not torch.equal(one.tensors[k], two.tensors[k])] == []
        assert one.meta["bits"] == two.meta["bits"]


@pytest.mark.slow
def test_other_runs_begin_with_it_and_learn_from_it(whole, command, tmp_path):
    start = [a if a != command[2] else str(whole) for a in command]
    more = ["--epochs", "3", "--teacher", str(whole)]
    assert main([*start, *more, "--out", str(tmp_path / "again")]) == 0
    assert directory.load(tmp_path / "again").model.conv1.bits.reads_image


def test_a_folder_of_it_is_evaluated_alike(whole, tmp_path, capsys):
    micronet.save(micronet.load(whole), tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["normalization"]["mean"] == list(CIFAR_STATISTICS[0])
    found = []
    for network in (whole, tmp_path / "net"):
        capsys.readouterr()
        assert main(["eval", str(network), "--data", "digits", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out) | {"network": ""})
    assert found[0] == found[1]


def test_images_that_are_normalized_otherwise_are_refused(whole, tmp_path, capsys, monkeypatch):
    """As those of large files are, unless a checkpoint says how."""
    halves = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    monkeypatch.setattr("micronet.data.batches.CIFAR_STATISTICS", halves)
    capsys.readouterr()
    assert main(["eval", str(whole)]) == 2
    message = capsys.readouterr().err
    assert "reads images of mean [0.4914" in message and "normalized by [0.5, 0.5, 0.5]" in message
    assert message.count("\n") == 1


def test_a_layer_in_the_middle_is_refused_before_anything_is_trained(command, tmp_path, capsys):
    recipe = json.loads(json.dumps(RECIPE))
    recipe["quantize"]["overrides"][0]["layers"] = ["layer1.0.conv1"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    wrong = [a if a != command[4] else str(path) for a in command]
    capsys.readouterr()
    assert main([*wrong, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "layer 'layer1.0.conv1' has 16 input channels, but images have 3" in message
    assert f"{path}:" in message and not (tmp_path / "out").exists()
