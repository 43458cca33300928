"""Schedules in Distiller's form: what becomes of them, and what is noted."""

import pytest

from distiller_schedules import AGP, QAT, changed, write
from micronet.models.architectures import create_model
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.recipe.reader import load_recipe, recipe_to_dict
from micronet.train import main
from micronet.utils.errors import UserError


def test_gradual_pruning(tmp_path):
    schedule = load_recipe(write(tmp_path, AGP))
    assert recipe_to_dict(schedule)["prune"] == {
        "start_epoch": 0,
        "end_epoch": 20,
        "frequency": 2,
        "method": "gradual",
        "groups": [
            {
                "layers": ["layer1.0.conv1", "layer1.0.conv2"],
                "initial_sparsity": 0.05,
                "final_sparsity": 0.25,
                "structure": "element",
                "scope": "layer",
                "criterion": "magnitude",
            },
            {
                "layers": ["layer3.0.conv1"],
                "initial_sparsity": 0.05,
                "final_sparsity": 0.7,
                "structure": "element",
                "scope": "layer",
                "criterion": "magnitude",
            },
        ],
    }
    train = schedule.train
    assert (train.lr_schedule, train.gamma, train.lr_start_epoch) == ("exponential", 0.9, 20)
    assert any("jumped" in note for note in schedule.notes)
    assert any("ties" in note for note in schedule.notes)
    groups = prune.layer_groups(create_model("resnet20", 10), schedule.prune, schedule.path)
    assert [g.final_sparsity for g in groups.values()] == [0.25, 0.25, 0.7]


def test_quantization(tmp_path):
    section = load_recipe(write(tmp_path, QAT)).quantize
    assert (section.weights.bits, section.activations.bits) == (4, 4)
    assert (section.activations.decay, section.start_epoch) == (0.99, 3)
    every, classifier, stem = section.overrides
    assert every.layers == ("re:.*",) and classifier.layers == ("fc",)
    assert classifier.weights.bits == 2.4 and classifier.activations is None
    assert stem.weights is None and stem.activations is None


def test_pruners_of_one_shot(tmp_path):
    document = {
        "pruners": {
            "a": {"class": "SparsityLevelParameterPruner", "levels": {"fc.weight": 0.5}},
            "b": {"class": "MagnitudeParameterPruner", "thresholds": {"*": 0.1}},
            "c": {"class": "SensitivityPruner", "sensitivities": {"conv1.weight": 0.6}},
            "d": {
                "class": "L1RankedStructureParameterPruner",
                "group_type": "Filters",
                "desired_sparsity": 0.5,
                "weights": ["layer1.0.conv1.weight"],
            },
        },
        "policies": [{"pruner": {"instance_name": n}, "epochs": [2]} for n in "abcd"],
    }
    schedule = load_recipe(write(tmp_path, document))
    a, b, c, d = schedule.prune.groups
    assert schedule.prune.method == "one-shot" and schedule.prune.start_epoch == 2
    assert a.final_sparsity == 0.5 and a.layers == ("fc",)
    assert b.threshold == 0.1 and b.layers == ("*",)
    assert c.sensitivity == 0.6
    assert d.structure == "filter" and d.final_sparsity == 0.5


def test_numbers_of_each_weight_become_groups(tmp_path):
    document = {
        "pruners": {
            "a": {
                "class": "SensitivityPruner",
                "sensitivities": {
                    "conv1.weight": 0.25,
                    "module.layer1.0.conv1.weight": 0.5,
                    "layer1.0.conv2.weight": 0.25,
                    "fc.weight": 0,
                    "*": 0.75,
                },
            }
        },
        "policies": [{"pruner": {"instance_name": "a"}, "epochs": [0]}],
    }
    schedule = load_recipe(write(tmp_path, document))
    groups = prune.layer_groups(create_model("resnet20", 10), schedule.prune, schedule.path)
    found = {name: (group.sensitivity, group.final_sparsity) for name, group in groups.items()}
    assert found.pop("conv1") == found.pop("layer1.0.conv2") == (0.25, None)
    assert found.pop("layer1.0.conv1") == (0.5, None)
    assert found.pop("fc") == (None, 0.0)
    assert set(found.values()) == {(0.75, None)} and len(found) == 16


def test_expressions_are_held_to_whole_names_and_the_first_wins(tmp_path):
    text = changed(QAT, ".*: {bits_bias: null}", "'layer(1|2).*conv[12]': {bits_weights: 3}")
    text = changed(text, "conv1: {bits", "'module.(conv1|layer1.*)': {bits")
    schedule = load_recipe(write(tmp_path, text))
    bits = quantize.plan(create_model("resnet20", 10), schedule.quantize, schedule.path)
    assert bits["layer1.0.conv2"].weight_bits == bits["layer2.2.conv1"].weight_bits == 3
    assert bits["layer3.0.conv1"].weight_bits == 4
    assert bits["conv1"].is_float and bits["fc"].weight_bits == 2.4
    other = create_model("mobilenet_v2", 10)
    with pytest.raises(UserError, match=r"distiller.yaml:12: quantize.overrides\[0\].layers: 're:"):
        quantize.plan(other, schedule.quantize, schedule.path)


def test_what_lasts_and_what_is_thinned_is_noted(tmp_path):
    text = changed(AGP, "policies:", "extensions: {thin: {class: FilterRemover}}\npolicies:")
    text += "  - extension: {instance_name: thin}\n    epochs: [20]\n"
    text = changed(
        text, "ending_epoch: 200\n    frequency: 1", "ending_epoch: 200\n    frequency: 3"
    )
    notes = load_recipe(write(tmp_path, text)).notes
    for part in ("extensions.thin: pruned pieces keep", "from epoch 200 on", "in every epoch"):
        assert any(part in note for note in notes), part
    ranked = changed(AGP, "AutomatedGradualPruner", "L1RankedStructureParameterPruner_AGP")
    ranked = ranked.replace(
        "    weights", "    group_type: 3D\n    group_dependency: Leader\n    weights"
    )
    notes = load_recipe(write(tmp_path, ranked)).notes
    assert sum("followed a leader" in note for note in notes) == 2


def test_a_run_says_what_differs(tmp_path, capsys):
    """And what is wrong with its names, by the line that they stand in."""
    small = ["--image-size", "8", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
    fit = ["fit", "--arch", "resnet20", *small, "--out", str(tmp_path / "fit")]
    assert main(fit) == 0
    text = changed(AGP, "starting_epoch: 20\n", "starting_epoch: 0\n")
    path = write(tmp_path, text.replace("ending_epoch: 20\n", "ending_epoch: 1\n"))
    start = ["prune", "--from", str(tmp_path / "fit"), "--schedule", path, *small]
    assert main([*start, "--out", str(tmp_path / "prune")]) == 0
    printed = capsys.readouterr().out
    assert "note: masks prune exactly the target" in printed
    write(tmp_path, changed(text, "layer3.0.conv1", "layer3.0.conv9"))
    assert main([*start, "--out", str(tmp_path / "again")]) == 2
    error = capsys.readouterr().err
    assert "distiller.yaml:9: prune.groups[1].layers: 'layer3.0.conv9' is no layer" in error
    assert "did you mean 'layer3.0.conv" in error


RATES = {
    "step": ({"class": "StepLR", "step_size": 30}, {"gamma": 0.1, "lr_schedule": "step"}),
    "multi": (
        {"class": "MultiStepLR", "milestones": [2, 5], "gamma": 0.5},
        {"milestones": (2, 5), "gamma": 0.5},
    ),
    "gammas": (
        {"class": "MultiStepMultiGammaLR", "milestones": [2, 5], "gammas": [0.5, 0.5]},
        {"milestones": (2, 5), "gamma": 0.5},
    ),
    "cosine": (
        {"class": "CosineAnnealingLR", "T_max": 7, "eta_min": 0.01},
        {"lr_min": 0.01, "epochs": 7, "lr_schedule": "cosine"},
    ),
    "polynomial": ({"class": "PolynomialLR", "T_max": 9, "power": 2}, {"power": 2.0, "epochs": 9}),
    "plateau": (
        {"class": "ReduceLROnPlateau", "mode": "max", "factor": 0.2, "patience": 3},
        {"patience": 3, "gamma": 0.2, "lr_schedule": "plateau"},
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates(tmp_path, name):
    settings, expected = RATES[name]
    policy = {"lr_scheduler": {"instance_name": "x"}, "starting_epoch": 0, "ending_epoch": 9}
    document = {"lr_schedulers": {"x": settings}, "policies": [{**policy, "frequency": 1}]}
    train = load_recipe(write(tmp_path, document)).train
    assert {key: getattr(train, key) for key in expected} == expected


def test_dry_run_prints_layers_epochs_and_notes(tmp_path, capsys):
    assert main(["schedule", write(tmp_path, AGP), "--arch", "resnet20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    layer = next(line.split() for line in lines if line.startswith("layer3.0.conv1"))
    assert layer == ["layer3.0.conv1", "18,432", "70", "%", "element", "all", "float", "float"]
    assert "Differs from Distiller:" in lines
    first = next(line.split() for line in lines if line.startswith("1 "))
    assert first[:6] == ["1", "0.1", "5.00", "%", "5.00", "%"]
    ours = {
        "prune": {
            "method": "one-shot",
            "groups": [
                {"layers": ["layer*"], "threshold": 0.1},
                {"layers": ["fc"], "sensitivity": 0.5},
                {"layers": ["conv1"], "final_sparsity": 0.5, "scope": "group", "start_epoch": 1},
            ],
        },
        "train": {"epochs": 2},
        "distill": {"start_epoch": 1, "teacher": "x"},
    }
    assert main(["schedule", write(tmp_path, ours), "--arch", "resnet20"]) == 0
    printed = capsys.readouterr().out
    for part in ("|w| <= 0.1", "0.5 deviations", "50 % together", "distilled", "labels"):
        assert part in printed


def test_dry_run_of_mistakes(tmp_path, capsys):
    for arguments, part in (
        ([write(tmp_path, AGP), "--arch", "resnet21"], "resnet21"),
        ([write(tmp_path, AGP)], "--arch"),
        ([write(tmp_path, AGP), "--arch", "mobilenet_v2"], "layer1.0.conv1"),
        (["none.yaml", "--arch", "resnet20"], "none.yaml"),
    ):
        assert main(["schedule", *arguments]) == 2
        assert part in capsys.readouterr().err
