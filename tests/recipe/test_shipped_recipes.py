"""The recipes that come with the project: each one plans, and the ones for B1 do what they say."""

from fractions import Fraction

import pytest
import torch
import yaml

import micronet.score as score
import micronet_kernels as kernels
from micronet.cli import dry_run
from micronet.compression.compress import compress
from micronet.data.preprocessing import IMAGENET_STATISTICS
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization import conversion, quantize
from micronet.quantization.deterministic_layers import ExactConv2d
from micronet.quantization.faults import Learned
from micronet.quantization.layers import QuantizedConv2d, QuantizedLinear, quantized_layers
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe, load_recipe
from micronet.runs import directory
from micronet.scoring.count import score_subject
from micronet.scoring.network.plan_files import load_plan
from micronet.scoring.rules.official import OFFICIAL as rules
from micronet.train import main
from micronet.training.optimizer import learning_rate
from paths import ROOT
from shared_runs import SMALL

SCHEDULES = ROOT / "schedules"
NETWORKS = {"cifar10": "resnet20", "demo": "efficientnet-micro", "efficientnet": "efficientnet-b1"}
LONGER = SCHEDULES / "efficientnet_b1_longer_plan.yaml"
HEAD = {"arch": "resnet8", "image_size": 8, "num_classes": 10}
RECIPES = sorted(p.name for p in SCHEDULES.glob("*.yaml") if not p.name.endswith("_plan.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned(name):
    arch = NETWORKS[name.split("_")[0]]
    text = dry_run.preview(str(SCHEDULES / name), arch, 10)
    schedule = load_recipe(SCHEDULES / name)
    with torch.device("meta"):
        layers = architectures.layers(architectures.create_model(arch, 10))
    assert all(f"\n{layer} " in text for layer in layers)
    last = text.splitlines()[-1].split()
    assert int(last[0]) == schedule.train.epochs
    if schedule.prune is not None:
        assert prune.last_firing_epoch(schedule.prune) < schedule.train.epochs


def scored(name, accumulator="32"):
    plan = load_plan(str(SCHEDULES / name))
    return score_subject(score.from_plan(plan, rules), rules), plan


@pytest.mark.slow
def test_longer_recipe_scores_what_it_says_and_less_than_the_one_of_2019(capsys):
    counted, _ = scored(LONGER.name)
    earlier, _ = scored("efficientnet_b1_plan.yaml")
    assert f"{float(counted.score):.6f}" in LONGER.read_text()
    assert counted.score < Fraction(4, 5) * earlier.score
    assert score.main([str(LONGER), "--accumulator", "proven"]) == 0
    proven = capsys.readouterr().out.splitlines()[-1].split()[1]
    assert proven in LONGER.read_text()


def test_longer_recipe_prunes_the_share_that_it_says():
    schedule = load_recipe(SCHEDULES / "efficientnet_b1_longer_prune.yaml")
    with torch.device("meta"):
        model = architectures.create_model("efficientnet-b1", 1000)
    shares = prune.final_sparsities(model, schedule.prune)
    layers = architectures.layers(model)
    assert shares.keys() == layers.keys()
    zeros = sum(prune.pruned_weights(layers[n].weight.numel(), s) for n, s in shares.items())
    total = sum(layer.weight.numel() for layer in layers.values())
    head = (SCHEDULES / "efficientnet_b1_longer_prune.yaml").read_text().splitlines()[0]
    assert f"{100 * zeros / total:.1f} %" in head
    rates = [learning_rate(schedule.train, epoch) for epoch in range(schedule.train.epochs + 1)]
    assert rates[0] < rates[2] == schedule.train.lr and rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_longer_recipe_trains_every_layer_in_integers(monkeypatch):
    """B1 itself, on images too small to mean anything: a step forward and back, in every layer."""
    schedule = load_recipe(SCHEDULES / "efficientnet_b1_longer_qat.yaml")
    torch.manual_seed(0)
    model = architectures.create_model("efficientnet-b1", 10)
    bits = quantize.plan(model, schedule.quantize)
    learned = {"weight_step": "learned", "activation_step": "learned"}
    offset = {"offset": True, "activation_start": "mse"}
    assert bits.pop("_conv_stem") == LayerBits(8, 8, activation_step="image")
    assert bits.pop("_fc") == LayerBits(4, 8, **learned, **offset)
    assert len(bits) == 114 and set(bits.values()) == {LayerBits(4, 4, **learned, **offset)}
    recipe = Recipe(quantize=schedule.quantize)
    mean, std = IMAGENET_STATISTICS
    compression = compress(model, recipe, mean=mean, std=std)
    compression.begin_epoch()
    rows = compression.report().layers
    assert [row.layer for row in rows if row.arithmetic != conversion.INTEGER] == []
    assert len(rows) == 116 and all(row.reason == "" for row in rows)
    # What the report says is what is done: a convolution of codes in each layer, no other.
    convolved, convolve = [], kernels.LazyTensor.convolve
    monkeypatch.setattr(
        kernels.LazyTensor,
        "convolve",
        staticmethod(lambda *args: convolved.append(args) or convolve(*args)),
    )
    for kind in (QuantizedConv2d, QuantizedLinear):
        monkeypatch.setattr(kind, "combine", lambda *_: pytest.fail("a layer computed in float"))
    monkeypatch.setattr(ExactConv2d, "convolve", lambda *_: pytest.fail("a float convolution"))
    model.train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert len(convolved) == 116
    assert quantize.uninitialized(model) == []
    for name, layer in quantized_layers(model):
        assert layer.weight.grad is not None and layer.weight.grad.isfinite().all(), name
    steps, offsets = Learned.of(model)
    assert len(steps) == 2 * 115 and len(offsets) == 115
    for parameter in (*steps.values(), *offsets.values()):
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.fixture(scope="module")
def proposal(shallow, tmp_path_factory):
    """A fitted network, and the plan that a search over made-up losses proposes for it."""
    folder = tmp_path_factory.mktemp("proposal")
    sections = {
        "prune": {"end_epoch": 1, "groups": [{"layers": ["layer*"], "final_sparsity": 0.3}]},
        "quantize": {
            "weights": {"bits": 4, "step": "learned"},
            "activations": {"bits": 4, "decay": 0.9},
            "overrides": [{"layers": ["conv1"], "weights": None, "activations": None}],
        },
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump({**HEAD, **sections}))
    table = "layer,sparsity,loss\nlayer3.0.conv2,0.9,0.1\nlayer3.0.conv1,0.85,0.2\n"
    (folder / "search.csv").write_text(table)
    base = score_subject(score.from_plan(load_plan(str(folder / "plan.yaml")), rules), rules)
    command = [str(folder / "plan.yaml"), "--search", str(folder / "search.csv")]
    command += ["--target", f"{float(base.score) * 0.93:.9f}"]
    assert score.main([*command, "--proposal", str(folder / "new.yaml")]) == 0
    for name in ("prune", "quantize"):
        recipe = {"train": {"epochs": 1, "lr": 0.01}, name: sections[name]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_what_a_search_proposes_is_trained(proposal, shallow):
    """Its sparsities by pruning, its precisions by quantized training, steps and decays too."""
    small = [*SMALL, "--plan", str(proposal / "new.yaml")]
    pruned, quantized = proposal / "runs" / "prune", proposal / "runs" / "qat"
    command = ["prune", "--from", str(shallow), *small, "--out", str(pruned)]
    assert main([*command, "--schedule", str(proposal / "prune.yaml")]) == 0
    layers = architectures.layers(directory.load(pruned).model)
    zeros = {n: float((layer.weight == 0).float().mean()) for n, layer in layers.items()}
    assert zeros["layer3.0.conv2"] == pytest.approx(0.9, abs=1e-4)
    assert zeros["layer1.0.conv1"] == pytest.approx(0.3, abs=1e-3) and zeros["conv1"] == 0
    command = ["qat", "--from", str(pruned), *small, "--out", str(quantized)]
    assert main([*command, "--schedule", str(proposal / "quantize.yaml")]) == 0
    recipe = directory.RunDirectory(quantized).config()["recipe"]
    assert "prune" not in recipe
    bits = dict(quantized_layers(directory.load(quantized).model))["layer3.0.conv2"].bits
    assert bits == LayerBits(4, 4, 0.9, "learned", "range")
    found = score_subject(score.from_run(str(quantized), rules), rules)
    planned = score_subject(score.from_plan(load_plan(str(proposal / "new.yaml")), rules), rules)
    assert float(found.score) == pytest.approx(float(planned.score), rel=0.05)


def test_plan_of_another_kind_is_refused(proposal, shallow, tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"arch": "resnet8", "quantize": {"weights": None,
                                    "activations": {"bits": 4}}}))  # fmt: skip
    command = ["prune", "--from", str(shallow), "--plan", str(plan)]
    command += ["--schedule", str(proposal / "prune.yaml"), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "has no section 'prune'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
