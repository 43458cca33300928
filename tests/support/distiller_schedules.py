"""Schedules in Distiller's form, as texts and as mappings of what they say."""

import yaml

from micronet.recipe.reader import load_recipe

AGP = """
version: 1
pruners:
  early:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.25
    weights: [module.layer1.0.conv1.weight, layer1.0.conv2.weight]
  late:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.7
    weights: [module.layer3.0.conv1.weight]
lr_schedulers:
  lr:
    class: ExponentialLR
    gamma: 0.9
policies:
  - pruner: {instance_name: early}
    starting_epoch: 0
    ending_epoch: 20
    frequency: 2
  - pruner: {instance_name: late}
    starting_epoch: 0
    ending_epoch: 20
    frequency: 2
  - lr_scheduler: {instance_name: lr}
    starting_epoch: 20
    ending_epoch: 200
    frequency: 1
"""
QAT = """
quantizers:
  linear_quantizer:
    class: QuantAwareTrainRangeLinearQuantizer
    bits_activations: 4
    bits_weights: 4
    bits_bias: null
    mode: ASYMMETRIC_UNSIGNED
    ema_decay: 0.99
    per_channel_wts: True
    overrides:
      .*: {bits_bias: null}
      fc: {bits_weights: 2.4, bits_activations: null}
      conv1: {bits_weights: null, bits_activations: null}
policies:
  - quantizer: {instance_name: linear_quantizer}
    starting_epoch: 3
    ending_epoch: 300
    frequency: 1
"""


def write(tmp_path, document):
    """Write a schedule; return the name of its file."""
    path = tmp_path / "distiller.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return str(path)


def changed(text, old, new):
    """Return a text with something else in place of what it has."""
    assert old in text
    return text.replace(old, new)


def schedule(tmp_path, document):
    """Return the recipe of a schedule."""
    return load_recipe(write(tmp_path, document))


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
