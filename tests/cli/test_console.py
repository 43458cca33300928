"""The command `micronet`, and recipes by name."""

import json

import pytest

from micronet.__main__ import PROGRAMS, main
from micronet.recipe import shipped
from micronet.recipe.reader import load_recipe
from micronet.utils.errors import UserError
from paths import ROOT


def test_a_program_gets_the_other_words(capsys):
    assert main(["score", "efficientnet_b1_plan", "--json"]) == 0
    assert round(json.loads(capsys.readouterr().out)["score"], 6) == 0.421245
    assert main(["train", "schedule", "demo_prune", "--arch", "efficientnet-micro"]) == 0
    assert "prune" in capsys.readouterr().out


def test_what_there_is_and_what_there_is_not(capsys):
    for words in ([], ["--help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in PROGRAMS)
    assert main(["trian"]) == 2
    assert "'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_a_recipe_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {path.stem: path for path in (ROOT / "micronet" / "recipes").glob("*.yaml")}
    assert shipped.names() == sorted(files) and len(files) >= 12
    for name in (n for n in files if not n.endswith("_plan")):
        assert load_recipe(name).train == load_recipe(files[name]).train
    with pytest.raises(
        UserError, match="'cifar10_resnet20_qta'; did you mean 'cifar10_resnet20_qat'"
    ):
        load_recipe("cifar10_resnet20_qta")


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo_fit").write_text("train: {epochs: 77}\n")
    assert load_recipe("demo_fit").train.epochs == 77
    with pytest.raises(UserError, match=r"cannot read schedule 'demo_fit\.yaml'"):
        load_recipe("demo_fit.yaml")
