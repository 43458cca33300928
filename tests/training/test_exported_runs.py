"""Runs whose images the data decided on: their files say how pixels are normalized."""

import json

import numpy as np
import pytest
import torch

import micronet
from micronet.data.datasets import open_data
from micronet.data.preprocessing import CIFAR_STATISTICS, statistics_of_record
from micronet.export import main as export
from micronet.runs import directory
from micronet.train import main
from micronet.utils.errors import UserError
from shared_runs import qat_command

BITS = {"bits": 4}
RECIPE = {
    "train": {"epochs": 1, "lr": 0.03},
    "quantize": {"weights": BITS, "activations": BITS},
}


@pytest.fixture(scope="module")
def whole(shallow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main([*qat_command(shallow, folder, RECIPE), "--out", str(folder / "qat")]) == 0
    return folder / "qat"


def test_bytes_have_the_logits_of_evaluation(whole, tmp_path):
    assert export([str(whole), "--out", str(tmp_path / "packed")]) == 0
    data = open_data("digits", image_size=8, batch_size=100, seed=0, trained=False)
    images, _ = next(data.test())
    mean, std = (255 * torch.tensor(row).view(3, 1, 1) for row in CIFAR_STATISTICS)
    pixels = torch.round(images * std + mean).to(torch.uint8)
    with torch.inference_mode():
        wanted = directory.load(whole).model.eval()(images)
    found = micronet.Engine(tmp_path / "packed").run_pixels(np.ascontiguousarray(pixels.numpy()))
    np.testing.assert_array_equal(found.view(np.int32), wanted.numpy().view(np.int32))


def test_the_library_and_folders_know_it_too(whole, tmp_path, capsys):
    model = micronet.load(whole)
    known = {"mean": list(CIFAR_STATISTICS[0]), "std": list(CIFAR_STATISTICS[1])}
    assert model.config["normalization"] == known and model.config["resize"] is None
    micronet.save(model, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["normalization"] == known
    found = []
    for network in (whole, tmp_path / "net"):
        capsys.readouterr()
        assert main(["eval", str(network), "--data", "digits", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out) | {"network": ""})
    assert found[0] == found[1]


def test_a_record_that_is_none_is_refused():
    assert statistics_of_record({}) is None
    for record in ({"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.0] * 3}, [1], {"mean": 1}):
        with pytest.raises(UserError, match=r"checkpoint 'x' does not say how images are prepared"):
            statistics_of_record({"normalization": record}, "x")
