"""Distiller's files that are refused: which row of the page on them says why."""

import re

import pytest

from distiller_schedules import gradual, quantizer, ranked, rate, schedule
from micronet.recipe.distiller import common
from micronet.train import main
from micronet.utils.errors import UserError
from paths import ROOT

DOCUMENT = ROOT / common.DOCUMENT

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
    assert "distiller.yaml" in message and "\n" not in message
    assert f"see '{row}' in docs/from_distiller.md" in message
    assert main(["schedule", str(tmp_path / "distiller.yaml"), "--arch", "resnet20"]) == 2
    assert message in capsys.readouterr().err


def test_every_row_that_an_error_names_is_there():
    tables = DOCUMENT.read_text().split("## The oddities")[0]
    first = {
        row.split("|")[1].strip().replace("`", "") for row in re.findall(r"^\|.*", tables, re.M)
    }
    assert set(common.ROWS) <= first
    named = {row for _, row in REFUSED.values()}
    assert set(common.ROWS) - named == {common.SEVERAL_QUANTIZERS}
