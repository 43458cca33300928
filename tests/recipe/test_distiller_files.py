"""Distiller's files in the forms that its users wrote: what is read, and what is noted."""

import pytest

from distiller_schedules import gradual, quantizer, ranked, rate, schedule
from micronet.models.architectures import create_model
from micronet.pruning import prune
from micronet.quantization import quantize


@pytest.mark.parametrize(
    "weights",
    [
        "module.fc.weight",
        "fc.weight",
        ["module.fc.weight"],
        ["fc.weight"],
        "module.fc.weight, module.conv1.weight",
        "fc.weight conv1.weight",
        "module.module.fc.weight",
    ],
)
def test_weights_are_a_list_or_text(weights, tmp_path):
    found = schedule(tmp_path, gradual(weights))
    groups = prune.layer_groups(create_model("resnet20", 10), found.prune, found.path)
    assert set(groups) == ({"fc", "conv1"} if "conv1" in weights else {"fc"})
    assert all(group.final_sparsity == 0.6 for group in groups.values())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["alexnet", "vgg19"])
def test_names_with_parallel_training_inside(arch, tmp_path):
    names = ["features.module.0.weight", "module.features.10.weight", "classifier.6.weight"]
    for document in (
        gradual(names),
        {
            "pruners": {
                "p": {"class": "SensitivityPruner", "sensitivities": dict.fromkeys(names, 1)}
            },
            "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
        },
    ):
        found = schedule(tmp_path, document)
        groups = prune.layer_groups(create_model(arch, 10), found.prune, found.path)
        assert set(groups) == {"features.0", "features.10", "classifier.6"}


@pytest.mark.parametrize(
    "pattern,layers",
    [
        ("module.features.0", {"features.0"}),
        ("features.module.0", {"features.0"}),
        (r"features\.module\.(0|3)", {"features.0", "features.3"}),
        (r"module\.classifier.*", {"classifier.1", "classifier.4", "classifier.6"}),
    ],
)
def test_overrides_with_parallel_training_inside(pattern, layers, tmp_path):
    document = quantizer(
        **{
            "class": "QuantAwareTrainRangeLinearQuantizer",
            "bits_weights": 4,
            "bits_activations": 4,
        },
        overrides={pattern: {"bits_weights": 2, "bits_activations": None, "bits_bias": None}},
    )
    found = schedule(tmp_path, document)
    bits = quantize.plan(create_model("alexnet", 10), found.quantize, found.path)
    assert {name for name, each in bits.items() if each.weight_bits == 2} == layers


@pytest.mark.parametrize(
    "settings,structure",
    [
        ({"group_type": "3D"}, "filter"),
        ({"group_type": "Channels"}, "channel"),
        ({"group_type": "Rows", "weights": "module.fc.weight"}, "channel"),
        ({"group_type": "Blocks", "kwargs": {"block_shape": [4, 1, 1, 1]}}, "4x1"),
    ],
)
def test_group_types(settings, structure, tmp_path):
    found = schedule(tmp_path, ranked(**settings, group_size=1))
    groups = prune.layer_groups(create_model("resnet20", 10), found.prune, found.path)
    assert [group.structure for group in groups.values()] == [structure]


# What is read with a note, and what the note says.
NOTED = {
    "a leader": (ranked(group_dependency="Leader"), "followed a leader"),
    "noise": (ranked(noise=0.1), "without noise"),
    "folding": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": {"fold_batchnorm": True}}),
        "policies[0].pruner.args.fold_batchnorm: weights are ranked as they are",
    ),
    "masks of a policy": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": {"keep_mask": True}}),
        "masks hold from the epoch",
    ),
    "steps of a policy": (
        gradual(
            ["fc.weight"],
            pruner={"instance_name": "p", "args": {"mini_batch_pruning_frequency": 4}},
        ),
        "at the beginning of epochs",
    ),
    "an unused regularizer": (
        gradual(["fc.weight"])
        | {"regularizers": {"r": {"class": "L1Regularizer", "reg_regims": {"bn1.weight": 0.1}}}},
        "regularizers.r: no policy uses it",
    ),
    "an unused pruner": (
        {**ranked(), "pruners": {**ranked()["pruners"], "spare": {"class": "SplicingPruner"}}},
        "pruners.spare: no policy uses it",
    ),
    "thinning": (
        {
            **ranked(),
            "extensions": {"e": {"class": "ChannelRemover", "arch": "x", "dataset": "y"}},
            "policies": [
                *ranked()["policies"],
                {"extension": {"instance_name": "e"}, "epochs": [3]},
            ],
        },
        "extensions.e: pruned pieces keep their place",
    ),
    "a pause": (
        rate(**{"class": "ReduceLROnPlateau", "cooldown": 3, "patience": 2}),
        "lr_schedulers.r.cooldown: it has no counterpart",
    ),
    "a threshold": (
        rate(**{"class": "ReduceLROnPlateau", "threshold": 0.01}),
        "lr_schedulers.r.threshold",
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_read_with_a_note(name, tmp_path):
    document, part = NOTED[name]
    assert any(part in note for note in schedule(tmp_path, document).notes)


def test_what_has_no_effect_is_not_noted(tmp_path):
    off = {"keep_mask": False, "fold_batchnorm": False, "use_double_copies": False, "levels": None}
    found = gradual(["fc.weight"], pruner={"instance_name": "p", "args": off})
    plain = schedule(tmp_path, gradual(["fc.weight"])).notes
    assert schedule(tmp_path, found).notes == plain
    idle = rate(**{"class": "StepLR", "step_size": 3, "last_epoch": -1, "verbose": True})
    assert len(schedule(tmp_path, idle).notes) == 1
