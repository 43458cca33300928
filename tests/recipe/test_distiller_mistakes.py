"""Mistakes in schedules in Distiller's form: one sentence each, which names what is wrong."""

import pytest

from distiller_schedules import AGP, QAT, changed, gradual, quantizer, ranked, rate, schedule, write
from micronet.recipe.reader import load_recipe
from micronet.utils.errors import UserError

TEXTS = {
    "unknown class": (changed(AGP, "AutomatedGradualPruner", "AutoPruner"), ["AutoPruner", ":4"]),
    "unknown key": (changed(AGP, "final_sparsity: 0.7", "final_sparsty: 0.7"), ["final_sparsty"]),
    "unknown instance": (
        changed(AGP, "instance_name: late", "instance_name: latte"),
        ["'latte'", "did you mean 'late'"],
    ),
    "no frequency": (changed(AGP, "    frequency: 2\n  - lr", "  - lr"), ["frequency is None"]),
    "regularizer": (
        changed(AGP, "- pruner: {instance_name: early}", "- regularizer: {instance_name: early}"),
        ["regularizer, which has no counterpart"],
    ),
    "another extension": (
        changed(
            changed(AGP, "policies:", "extensions: {x: {class: Foo}}\npolicies:"),
            "- pruner: {instance_name: early}",
            "- extension: {instance_name: x}",
        ),
        [":18: extensions.x.class 'Foo' has no counterpart"],
    ),
    "an extension that is not there": (
        changed(AGP, "- pruner: {instance_name: early}", "- extension: {instance_name: early}"),
        ["'early', which extensions lacks"],
    ),
    "an unknown key of a policy": (
        changed(AGP, "starting_epoch: 20", "start_epoch: 20"),
        ["policies[2].start_epoch is unknown", "'starting_epoch'"],
    ),
    "two rates": (
        AGP + "  - lr_scheduler: {instance_name: lr}\n    epochs: [1]\n",
        ["policies[3] is the second policy of a lr_scheduler"],
    ),
    "a weight of two pruners": (
        changed(AGP, "layer3.0.conv1.weight", "layer1.0.conv1.weight"),
        ["prune 'layer1.0.conv1.weight' twice"],
    ),
    "no policies": ("policies: []", ["policies is not a list"]),
    "policy is text": ("policies: [a]", ["policies[0] is not a mapping"]),
    "no weights": (changed(AGP, "weights: [module.layer3.0.conv1.weight]", "weights: x"), ["late"]),
    "a bias": (changed(AGP, "layer3.0.conv1.weight", "layer3.0.conv1.bias"), ["no layer's weight"]),
    "other quantizer": (
        changed(QAT, "QuantAwareTrainRangeLinearQuantizer", "DorefaQuantizer"),
        ["DorefaQuantizer"],
    ),
    "bits": (changed(QAT, "bits_weights: 4\n", "bits_weights: many\n"), ["many"]),
    "code": ("policies: !!python/object/apply:os.system ['true']", ["not valid YAML"]),
    "uneven epochs": (
        changed(
            AGP,
            "starting_epoch: 0\n    ending_epoch: 20\n    frequency: 2\n  - lr",
            "epochs: [1, 2, 4]\n  - lr",
        ),
        ["not evenly spaced"],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_mistake_is_one_sentence(tmp_path, name):
    text, parts = TEXTS[name]
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert path in message and "\n" not in message
    for part in parts:
        assert part in message


MAPPINGS = {
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


@pytest.mark.parametrize("name", MAPPINGS)
def test_mistake_of_a_mapping(name, tmp_path):
    document, parts = MAPPINGS[name]
    with pytest.raises(UserError) as caught:
        schedule(tmp_path, document)
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))
