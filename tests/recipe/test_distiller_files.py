"""Distiller's files in the forms that its users wrote: what is read, and which row says why not."""

import re

import pytest
import yaml

from micronet.models.architectures import create_model
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.recipe.distiller import common
from micronet.recipe.reader import load_recipe
from micronet.train import main
from micronet.utils.errors import UserError
from paths import ROOT

DOCUMENT = ROOT / common.DOCUMENT


def schedule(tmp_path, document):
    path = tmp_path / "old.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load_recipe(str(path))


def gradual(weights, **more):
    """Return a schedule of one pruner that prunes step by step."""
    pruner = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.1, "final_sparsity": 0.6}
    policy = {"starting_epoch": 2, "ending_epoch": 12, "frequency": 2}
    return {
        "version": 1,
        "pruners": {"p": pruner | {"weights": weights}},
        "policies": [{"pruner": {"instance_name": "p"}, **policy} | more],
    }


def ranked(**more):
    """Return a schedule of one pruner that ranks pieces and prunes once."""
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5}
    pruner |= {"group_type": "Filters", "weights": ["module.layer1.0.conv1.weight"]}
    return {
        "pruners": {"p": pruner | more},
        "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
    }


def rate(**settings):
    policy = {"starting_epoch": 0, "ending_epoch": 9, "frequency": 1}
    return {
        "lr_schedulers": {"r": settings},
        "policies": [{"lr_scheduler": {"instance_name": "r"}, **policy}],
    }


def quantizer(**settings):
    policy = {"starting_epoch": 0, "ending_epoch": 9, "frequency": 1}
    return {
        "quantizers": {"q": settings},
        "policies": [{"quantizer": {"instance_name": "q"}, **policy}],
    }


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


STATISTICS = {"min": -1.0, "max": 2.5, "mean": 0.3, "shape": "(8, 4)"}
REFUSED = {
    "splicing": (
        {
            "pruners": {"p": {"class": "SplicingPruner", "sensitivities": {"fc.weight": 0.1}}},
            "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
        },
        common.SPLICING,
    ),
    "activations": (
        ranked(**{"class": "ActivationAPoZRankedFilterPruner"}),
        common.RANKING,
    ),
    "random filters": (ranked(**{"class": "BernoulliFilterPruner_AGP"}), common.RANKING),
    "squares": (ranked(**{"class": "L2RankedStructureParameterPruner"}), common.RANKING),
    "deep blocks": (
        ranked(group_type="Blocks", kwargs={"block_shape": [1, 8, 1, 1]}),
        common.BLOCKS,
    ),
    "blocks of no shape": (ranked(group_type="Blocks"), common.BLOCKS),
    "another group": (ranked(group_type="2D"), common.OTHER_GROUPS),
    "several at once": (ranked(group_size=4), common.OTHER_GROUPS),
    "a recurrent layer": (gradual(["rnn.weight_hh_l0"]), common.OTHER_WEIGHTS),
    "a bias as text": (gradual("module.fc.bias"), common.OTHER_WEIGHTS),
    "copies": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": {"use_double_copies": True}}),
        common.LOOSE_MASKS,
    ),
    "levels of a policy": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": {"levels": {"*": 0.1}}}),
        common.LEVELS,
    ),
    "a weight twice": (
        {**ranked(), "policies": ranked()["policies"] * 2},
        common.TWICE,
    ),
    "a weight twice, by two names": (
        gradual(["module.fc.weight"])
        | {
            "pruners": {
                "p": gradual(["module.fc.weight"])["pruners"]["p"],
                "q": gradual("fc.module.weight")["pruners"]["p"],
            },
            "policies": [{"pruner": {"instance_name": n}, "epochs": [0, 1, 2]} for n in ("p", "q")],
        },
        common.TWICE,
    ),
    "both methods": (
        {
            "pruners": {
                "p": gradual(["fc.weight"])["pruners"]["p"],
                "q": ranked()["pruners"]["p"],
            },
            "policies": [{"pruner": {"instance_name": n}, "epochs": [0, 1, 2]} for n in ("p", "q")],
        },
        common.MIXED,
    ),
    "uneven epochs": (
        {**ranked(), "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0, 1, 5]}]},
        common.EPOCHS,
    ),
    "several gammas": (
        rate(**{"class": "MultiStepMultiGammaLR", "milestones": [1, 2], "gammas": [0.1, 0.2]}),
        common.GAMMAS,
    ),
    "another rate": (rate(**{"class": "OneCycleLR", "max_lr": 1}), common.OTHER_RATES),
    "two rates": (
        {**rate(**{"class": "StepLR", "step_size": 3}), "policies": rate()["policies"] * 2},
        common.OTHER_RATES,
    ),
    "a regularizer": (
        {
            "regularizers": {"r": {"class": "GroupLassoRegularizer"}},
            "policies": [{"regularizer": {"instance_name": "r"}, "epochs": [0]}],
        },
        common.REGULARIZERS,
    ),
    "an extension": (
        {
            "extensions": {"e": {"class": "KnowledgeDistillationPolicy"}},
            "policies": [{"extension": {"instance_name": "e"}, "epochs": [0]}],
        },
        common.OTHER_EXTENSIONS,
    ),
    "DoReFa": (quantizer(**{"class": "DorefaQuantizer"}), common.OTHER_QUANTIZERS),
    "PACT": (quantizer(**{"class": "PACTQuantizer"}), common.OTHER_QUANTIZERS),
    "post-training": (
        {"quantizers": {"q": {"class": "PostTrainLinearQuantizer", "bits_parameters": 8}}},
        common.POST_TRAINING,
    ),
    "post-training as a policy": (
        quantizer(**{"class": "PostTrainLinearQuantizer"}),
        common.POST_TRAINING,
    ),
    "statistics": (
        {"conv1": {"inputs": {0: STATISTICS}, "output": STATISTICS}, "fc": {"output": STATISTICS}},
        common.POST_TRAINING,
    ),
    "layers for AMC": ({"network": {"resnet20": ["module.layer1.0.conv1"]}}, common.AMC),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_names_its_row(name, tmp_path, capsys):
    document, row = REFUSED[name]
    with pytest.raises(UserError) as caught:
        schedule(tmp_path, document)
    message = str(caught.value)
    assert "old.yaml" in message and "\n" not in message
    assert f"see '{row}' in docs/from_distiller.md" in message
    assert main(["schedule", str(tmp_path / "old.yaml"), "--arch", "resnet20"]) == 2
    assert message in capsys.readouterr().err


def test_every_row_that_an_error_names_is_there():
    tables = DOCUMENT.read_text().split("## The oddities")[0]
    first = {
        row.split("|")[1].strip().replace("`", "") for row in re.findall(r"^\|.*", tables, re.M)
    }
    assert set(common.ROWS) <= first
    named = {row for _, row in REFUSED.values()}
    assert set(common.ROWS) - named == {common.SEVERAL_QUANTIZERS}


MISTAKES = {
    "no policies": ({"pruners": ranked()["pruners"]}, ["has no policies"]),
    "an unknown argument": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": {"keep_masks": True}}),
        ["policies[0].pruner.args.keep_masks is unknown", "'keep_mask'"],
    ),
    "arguments that are a list": (
        gradual(["fc.weight"], pruner={"instance_name": "p", "args": [1]}),
        ["policies[0].pruner.args is not a mapping"],
    ),
    "an instance that is text": (gradual([], pruner="p"), ["is not a mapping with"]),
    "an unknown key of an override": (
        quantizer(
            **{"class": "QuantAwareTrainRangeLinearQuantizer", "bits_weights": 4},
            overrides={"fc": {"bits_wieghts": 8}},
        ),
        ["quantizers.q.overrides.fc.bits_wieghts is unknown", "'bits_weights'"],
    ),
    "an unknown quantizer": (
        quantizer(**{"class": "QuantAwareTrainRangeLinear"}),
        ["unknown class", "did you mean 'QuantAwareTrainRangeLinearQuantizer'"],
    ),
    "an unknown rate": (rate(**{"class": "StepRate"}), ["unknown class", "'StepLR'"]),
    "no gammas": (rate(**{"class": "MultiStepMultiGammaLR", "milestones": [1]}), ["gammas"]),
    "a pause of another class": (
        rate(**{"class": "StepLR", "step_size": 3, "cooldown": 1}),
        ["lr_schedulers.r.cooldown is unknown"],
    ),
    "no group type": (
        {
            "pruners": {
                "p": {
                    "class": "L1RankedStructureParameterPruner_AGP",
                    "initial_sparsity": 0.1,
                    "final_sparsity": 0.5,
                    "weights": ["fc.weight"],
                }
            },
            "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0, 1]}],
        },
        ["pruners.p has no group_type"],
    ),
    "arguments of blocks that are a list": (
        ranked(group_type="Blocks", kwargs=[4, 1, 1, 1]),
        ["group_type 'Blocks' has no counterpart"],
    ),
    "blocks of no rows": (
        ranked(group_type="Blocks", kwargs={"block_shape": [0, 1, 1, 1]}),
        ["group_type 'Blocks' has no counterpart"],
    ),
    "sections that are lists": (
        {"regularizers": [1], "pruners": 3, "policies": [{"pruner": {"instance_name": "p"}}]},
        ["'p', which pruners lacks"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path):
    document, parts = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        schedule(tmp_path, document)
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))
