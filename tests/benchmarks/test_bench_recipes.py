"""The comparison of recipes, on a few tiny images: what it trains, keeps, refuses and resumes."""

import json
import signal

import pytest

from benchmarks.pipeline.recipes import report, variants
from benchmarks.pipeline.recipes.__main__ import main
from benchmarks.pipeline.recipes.runs import Case, NotRun, Result
from benchmarks.pipeline.recipes.variants import Epochs
from image_folders import make_folder
from micronet.compression import plan
from micronet.models import architectures
from micronet.pruning import prune
from micronet.recipe.reader import Recipe
from micronet.training import loop


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"), 32)


def command(images, work, *only, qat=1, seed=0):
    network = ["--networks", "resnet20", "--seeds", str(seed), "--threads", "1"]
    epochs = ["--epochs-fit", "1", "--epochs-prune", "1", "--epochs-qat", str(qat)]
    folders = ["--data", str(images), "--work", str(work), "--results", str(work)]
    return [*network, *epochs, *folders, *(["--only", *only] if only else [])]


def result(work):
    record = json.loads((work / "recipes_cifar10.json").read_text())
    return {run["variant"]: run for run in record["runs"]}


@pytest.mark.slow
def test_trains_what_is_asked_for_once_and_says_why_the_rest_is_not(images, tmp_path, capsys):
    only = "range", "sparse-1x4", "range-second-order"
    assert main(command(images, tmp_path, *only)) == 0
    said = capsys.readouterr().out
    assert said.count("$ python -m micronet.train") == 4
    runs = result(tmp_path)
    assert list(runs) == [
        *("dense", "sparse", "sparse-1x4", "sparse-second-order", "range", "range-second-order")
    ]
    assert runs["range"]["bits"] == "4/4" and runs["range"]["total"] == 12
    assert 0.5 < runs["sparse-1x4"]["sparsity"] < 0.6 and runs["dense"]["sparsity"] == 0
    assert "criterion" in runs["sparse-second-order"]["not_run"]
    assert runs["range-second-order"]["not_run"] == (
        "it starts from sparse-second-order, which was not run"
    )
    assert said.splitlines()[-1].startswith("RESULT {")
    assert "- `sparse-second-order` not run: " in (tmp_path / "recipes_cifar10.md").read_text()
    # A second call trains nothing again, and one that may not train says so.
    assert main([*command(images, tmp_path, "range", "range-1x4"), "--hours", "0"]) == 0
    assert "$ python" not in capsys.readouterr().out
    assert result(tmp_path)["range-1x4"]["not_run"] == "time was up"
    assert result(tmp_path)["range"] == runs["range"]
    assert main(command(images, tmp_path, "range", qat=2)) == 2
    assert "was begun with" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_grows_by_seeds(images, tmp_path):
    assert main(command(images, tmp_path, "range")) == 0
    other = ["--work", str(tmp_path / "another"), "--hours", "0"]
    first = result(tmp_path)
    # One that trains nothing takes nothing away.
    assert main([*command(images, tmp_path, "range"), *other]) == 0
    assert result(tmp_path) == first
    assert main([*command(images, tmp_path, "sparse", seed=1), "--work", str(tmp_path / "b")]) == 0
    record = json.loads((tmp_path / "recipes_cifar10.json").read_text())
    cases = [(run["seed"], run["variant"]) for run in record["runs"]]
    assert cases == [(0, "dense"), (0, "sparse"), (0, "range"), (1, "dense"), (1, "sparse")]
    assert [row["seeds"] for row in record["rows"]] == [2, 2, 1]
    assert all(run["revision"] for run in record["runs"])
    # Other epochs are another table.
    longer = command(images, tmp_path, "sparse", qat=2)
    assert main([*longer, "--work", str(tmp_path / "c")]) == 0
    assert list(result(tmp_path)) == ["dense", "sparse"]


@pytest.mark.slow
def test_goes_on_where_a_training_was_interrupted(images, tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(images, whole, "range", qat=2)) == 0
    validate = loop.validate

    def interrupted(state, plan, *others):
        found = validate(state, plan, *others)
        if plan.stage == "qat":
            signal.raise_signal(signal.SIGINT)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(loop, "validate", interrupted)
        assert main(command(images, broken, "range", qat=2)) == 128 + signal.SIGINT
    assert not (broken / "recipes_cifar10.json").exists()
    capsys.readouterr()
    assert main(command(images, broken, "range", qat=2)) == 0
    said = capsys.readouterr().out
    assert said.count("$ python") == 1 and "after 0 steps of epoch 2" in said
    timeless = [{**result(w)["range"], "minutes": 0} for w in (whole, broken)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("network", ["resnet20", "mobilenetv2_cifar"])
def test_sixty_percent_are_pruned_of_all_but_stem_classifier_and_depthwise(network):
    section = Recipe.from_dict(variants.table(Epochs(1, 4, 1))["sparse"].recipe).prune
    model = architectures.create_model(network, 10)
    groups = prune.layer_groups(model, section)
    kept = {n for n in architectures.layers(model) if n.endswith("depthwise")} | {"conv1", "fc"}
    assert groups.keys() == architectures.layers(model).keys() - kept
    fired = prune.firing_epochs(section)
    assert list(fired) == [1, 2]
    assert prune.target_sparsity(section, section.groups[0], fired[-1]) == 0.6


@pytest.mark.parametrize("epochs", [2, 3, 4, 12])
def test_bits_fall_to_four_in_the_first_half(epochs):
    recipe = variants.table(Epochs(1, 1, epochs))["range+bn+freeze+progressive"].recipe
    stages = recipe["quantize"]["progressive"]
    at = [stage["epoch"] for stage in stages]
    assert at == sorted(set(at)) and at[0] == 0 and at[-1] <= epochs / 2
    reached = {key: value for stage in stages for key, value in stage.items()}
    assert (reached["weights"], reached["activations"]) == (2.4, 4)
    # A stage of the bits that layers have anyway is refused.
    assert stages[0] == {"epoch": 0, "weights": 8, "activations": 8}


@pytest.mark.parametrize("network", ["resnet20", "mobilenetv2_cifar"])
@pytest.mark.parametrize("epochs", [2, 3, 4, 12])
def test_every_recipe_fits_the_networks(network, epochs):
    model = architectures.create_model(network, 10)
    for name, variant in variants.table(Epochs(epochs, epochs, epochs)).items():
        found = plan.resolve(model, Recipe.from_dict(variant.recipe))
        bits = found.bits_at(epochs - 1)
        assert bool(bits) == (variant.stage == "qat"), name
        if bits:
            assert bits["fc"].weight_bits == 2.4, name
            rest = [layer for key, layer in bits.items() if key not in ("conv1", "fc")]
            assert {(layer.weight_bits, layer.activation_bits) for layer in rest} == {(4, 4)}, name


def test_one_epoch_has_no_stages_of_bits():
    recipe = variants.table(Epochs(1, 1, 1))["range+bn+freeze+progressive"].recipe
    assert "progressive" not in recipe["quantize"]


def test_means_deviations_and_differences_are_over_seeds():
    def outcome(correct):
        return Result(correct, 100, 0.6, "4/4", 1, 2.0, 0.1, "abc")

    found = {
        Case("net", 0, "dense"): outcome(90),
        Case("net", 0, "range"): outcome(88),
        Case("net", 1, "dense"): outcome(94),
        Case("net", 1, "range"): outcome(90),
        Case("net", 2, "dense"): NotRun("time was up"),
        Case("net", 2, "range"): NotRun("time was up"),
    }
    dense, quantized = report.rows(found)
    assert (dense.top1, dense.deviation, dense.to_dense) == (92, 2.83, 0)
    assert (quantized.seeds, quantized.top1, quantized.to_dense) == (2, 89, -3)
    assert quantized.deviation == 1.41 and quantized.note == "not run: time was up"
    page = report.markdown([dense, quantized], Epochs(1, 1, 1), {"cores": "2"})
    assert "| `range` | 2 | 89.00 | 1.41 | -3.00 | 60.0 % | 4/4 | 0.100000 | 2.0 |" in page
