"""The comparison of training in integers and in rounded floats, on a few tiny images."""

import json

import pytest

from benchmarks.pipeline import blocks_accuracy
from image_folders import make_folder
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits


def test_layers_are_exact_or_none_is():
    model = architectures.create_model("resnet20", 10)
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), LayerBits(4, 4)))
    layers = [layer for _, layer in quantize.quantized_layers(model)]
    with blocks_accuracy.trained_in(blocks_accuracy.FLOATS):
        assert layers and not any(layer.is_exact for layer in layers)
    with blocks_accuracy.trained_in(blocks_accuracy.INTEGERS):
        assert all(layer.is_exact for layer in layers)


@pytest.mark.slow
def test_the_command_trains_both_ways_and_ends_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", str(make_folder(tmp_path / "images", 32)))
    epochs = ["--fit-epochs", "1", "--qat-epochs", "1", "--seeds", "0", "1"]
    folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path)]
    assert blocks_accuracy.main([*epochs, *folders]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last.removeprefix("RESULT "))
    record = json.loads((tmp_path / "blocks_accuracy.json").read_text())
    assert record["summary"] == summary and len(record["results"]) == 4
    assert 0 <= summary["integers_top1"] <= 100
    difference = summary["integers_top1"] - summary["floats_top1"]
    assert summary["difference"] == pytest.approx(difference, abs=0.011)


def test_one_seed_says_nothing_of_the_noise(capsys):
    with pytest.raises(SystemExit):
        blocks_accuracy.main(["--seeds", "0"])
    assert "at least two" in capsys.readouterr().err
