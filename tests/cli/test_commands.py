"""The commands that do not train: summary and sensitivity."""

import csv

import pytest
import torch

import micronet.score as score
from micronet.cli import summary, train_commands
from micronet.models import architectures
from micronet.runs import directory
from micronet.scoring.network.plan_files import plan_of
from micronet.scoring.network.scored_network import from_plan
from micronet.scoring.rules.ist_versions import SEED
from micronet.scoring.search.sensitivity import load_sensitivity
from micronet.train import main
from micronet.training import sensitivity
from micronet.utils.errors import UserError


def test_multiply_adds_of_a_hand_computed_network():
    with torch.device("meta"):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
            torch.nn.Conv2d(8, 8, 5, padding=2, groups=8),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 5),
        )
    found = summary.multiply_adds(network, 10)
    assert found == {"0": 25 * 3 * 8 * 9, "1": 25 * 8 * 25, "4": 40}


def test_summary_prints_every_layer_once(fitted, capsys):
    assert main(["summary", str(fitted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[3:-1]]
    assert names == list(architectures.layers(directory.load(fitted).model))
    weights = sum(
        m.weight.numel() for m in architectures.layers(directory.load(fitted).model).values()
    )
    assert lines[-1].split()[:2] == ["all", f"{weights:,}"]
    assert main(["summary", "--arch", "efficientnet-b0", "--image-size", "224"]) == 0
    # Tan & Le 2019, table 2, give 0.39 B.
    assert "385,814,752" in capsys.readouterr().out.splitlines()[-1]


def test_sensitivity_measures_each_layer_and_leaves_the_network(fitted, tmp_path, capsys):
    out = tmp_path / "scan"
    command = ["sensitivity", str(fitted), "--sparsities", "0.5,0.9", "--layers", "layer1.*", "fc"]
    assert main([*command, "--kind", "filter", "--batches", "1", "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "sensitivity.csv").read_text().splitlines()))
    assert len(rows) == 2 * 7 and rows[-1]["layer"] == "fc"
    assert (out / "sensitivity.svg").read_text().count("<polyline") == 7
    subject = from_plan(plan_of("resnet20", num_classes=10), SEED)
    options = load_sensitivity(str(out / "search.csv"), subject)
    assert len(options) == 7 and all(len(alternatives) == 2 for alternatives in options.values())


def test_scan_prunes_as_much_as_it_says_and_puts_it_back():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    before, seen = model[1].weight.detach().clone(), []

    def batches():
        seen.append(int((model[1].weight == 0).sum()))
        yield torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])

    base, points = sensitivity.scan(model, batches, ["*"], "element", [0.25, 0.5])
    assert seen == [0, 15, 30] and torch.equal(model[1].weight, before)
    assert base.total == 4 and [p.sparsity for p in points] == [0.25, 0.5]


@pytest.mark.parametrize(
    "text,levels",
    [("0.1:0.3:0.1", [0.1, 0.2, 0.3]), ("0.5", [0.5]), ("0.2,0.9", [0.2, 0.9])],
)
def test_levels(text, levels):
    assert sensitivity.sparsities_of(text) == levels


@pytest.mark.parametrize(
    "text", ["", "x", "0:0.5:0.1", "0.5:0.4:0.1", "0.1:0.2:0", "1", "1:2", "nan"]
)
def test_levels_that_are_none(text):
    with pytest.raises(UserError, match="--sparsities"):
        sensitivity.sparsities_of(text)


@pytest.mark.parametrize(
    "arguments,part",
    [
        (["summary"], "a run or --arch"),
        (["summary", "x", "--arch", "resnet20"], "a run or --arch"),
        (["summary", "--arch", "resnet21"], "resnet21"),
        (["sensitivity", "nowhere", "--out", "x"], "nowhere"),
        (["sensitivity", "nowhere"], "--out"),
    ],
)
def test_mistakes(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program,command", [(main, ["eval", "x"]), (score.main, ["x"])])
def test_an_interrupt_is_one_word(program, command, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(train_commands.COMMANDS, "eval", interrupted)
    monkeypatch.setattr(score.score_arguments, "subjects", interrupted)
    assert program(command) == 130
    assert capsys.readouterr().err == "stopped\n"
