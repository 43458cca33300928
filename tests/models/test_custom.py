"""Networks of a user's own: trained, quantized, scored and shown; started by no file alone."""

import sys

import pytest
import yaml

import micronet.score as score
from micronet import report
from micronet.models import architectures, custom
from micronet.train import main
from micronet.utils.errors import UserError
from user_modules import importable

SOURCE = """
from torch import nn
from user_modules import importable


def net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )


def broken(num_classes):
    raise RuntimeError("no such luck")


def text(num_classes):
    return "a network"


number = 3
"""
SMALL = ["--image-size", "16", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
RECIPE = {
    "prune": {"end_epoch": 1, "groups": [{"layers": ["re:[03]"], "final_sparsity": 0.5}]},
    "quantize": {"weights": {"levels": 5}, "activations": {"bits": 4}},
    "distill": {"start_epoch": 0},
}


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """The name of a module of its own, importable and allowed nowhere yet."""
    with importable(SOURCE, tmp_path, monkeypatch, request) as name:
        yield name


def test_from_fit_to_report(module, tmp_path, capsys):
    spec, fit, qat = f"{module}:net", str(tmp_path / "fit"), str(tmp_path / "qat")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit]) == 0
    custom._allowed.clear()
    sys.modules.pop(module)
    commands = [
        ["qat", "--from", fit, "--teacher", fit, "--schedule", str(recipe), *SMALL, "--out", qat],
        ["qat", "--out", qat, "--resume"],
        ["eval", qat],
        ["summary", qat],
        ["sensitivity", qat, "--levels", "0.5", "--out", str(tmp_path / "scan")],
    ]
    programs = [(main, command) for command in commands]
    programs += [(score.main, [qat]), (report.main, [fit, qat])]
    for program, command in programs:
        capsys.readouterr()
        assert program(command) == 2
        error = capsys.readouterr().err
        assert f"{spec!r} is code of your own" in error and f"--own {spec}" in error
        assert module not in sys.modules, "its code ran"
        assert program([*command, "--own", spec]) == 0, capsys.readouterr().err
        custom._allowed.clear()
        sys.modules.pop(module, None)


def test_no_file_starts_code(module, tmp_path, capsys):
    """Neither a plan nor a schedule's teacher."""
    spec = f"{module}:net"
    plan, recipe = tmp_path / "plan.yaml", tmp_path / "recipe.yaml"
    plan.write_text(yaml.safe_dump({"arch": spec, "image_size": 16}))
    taught = {"teacher": spec, "teacher_weights": "none.pth"}
    recipe.write_text(yaml.safe_dump({"distill": taught}))
    fit = ["fit", "--arch", "resnet20", "--schedule", str(recipe), *SMALL]
    assert main([*fit, "--out", str(tmp_path / "run")]) == 2
    assert score.main([str(plan)]) == 2
    assert capsys.readouterr().err.count("is code of your own") == 2
    assert module not in sys.modules and not (tmp_path / "run").exists()
    assert score.main([str(plan), "--own", spec]) == 0


@pytest.mark.parametrize(
    "name,part",
    [
        ("none", "has no function 'none'"),
        ("number", "has no function 'number'"),
        ("broken", "failed: RuntimeError: no such luck"),
        ("text", "returned str, which is no torch network"),
    ],
)
def test_functions_that_make_no_network(module, name, part, tmp_path, capsys):
    arguments = ["fit", "--arch", f"{module}:{name}", *SMALL, "--out", str(tmp_path / "run")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spec", ["no_such_module_anywhere:net", ":net", "a..b:net"])
def test_modules_that_cannot_be_imported(spec, monkeypatch):
    monkeypatch.setattr(custom, "_allowed", {spec})
    with pytest.raises(UserError, match="cannot import"):
        architectures.create_model(spec, 10)


def test_what_only_published_networks_have(module):
    custom.allow(f"{module}:net")
    with pytest.raises(UserError, match="no published weights"):
        architectures.create_model(f"{module}:net", 10, pretrained=True)
    with pytest.raises(UserError, match="give --image-size"):
        architectures.default_image_size(f"{module}:net")
    with pytest.raises(UserError, match="needs 1"):
        architectures.create_model(f"{module}:net", 10, channels=1)
