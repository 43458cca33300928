"""The recipe's YAML: what is read, and how a mistake in it is answered."""

import dataclasses

import pytest

from micronet.recipe.reader import load_recipe, recipe_from_dict, recipe_to_dict
from micronet.recipe.strict import Inherit
from micronet.utils.errors import UserError

WHOLE = """
train: {epochs: 3, lr: 1, lr_schedule: exponential}
prune:
  end_epoch: 2
  groups:
    - {layers: ["a*"], final_sparsity: 0.5}
quantize:
  weights: {bits: 4}
  activations: {bits: 4, decay: 0.9}
  overrides:
    - {layers: [fc], weights: {bits: 2.4}, activations: null}
    - {layers: [stem], weights: null}
    - {layers: ["b*"], weights: {bits: 3, step: learned}, activations: {bits: 3, step: learned}}
distill: {temperature: 2, student_weight: 0.3}
"""


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_reads_every_section(tmp_path):
    schedule = load_recipe(write(tmp_path, WHOLE))
    assert schedule.train.epochs == 3
    assert schedule.train.lr == 1.0 and isinstance(schedule.train.lr, float)
    assert schedule.prune.groups[0].layers == ("a*",)
    first, second, third = schedule.quantize.overrides
    assert first.weights.bits == 2.4 and first.activations is None
    assert second.weights is None and second.activations is Inherit.INHERIT
    assert schedule.quantize.weights.step == schedule.quantize.activations.step == "range"
    assert third.weights.step == third.activations.step == "learned"
    assert schedule.distill.student_weight == 0.3


@pytest.mark.parametrize("text", [WHOLE, "quantize: {weights: null, activations: {bits: 4}}"])
def test_round_trips_through_plain_data(tmp_path, text):
    schedule = load_recipe(write(tmp_path, text))
    again = recipe_from_dict(recipe_to_dict(schedule), schedule.path)
    assert again == schedule


def test_absent_sections_are_none(tmp_path):
    schedule = load_recipe(write(tmp_path, "train: {epochs: 1}"))
    assert schedule.prune is None and schedule.quantize is None and schedule.distill is None
    assert dataclasses.asdict(schedule)["train"]["batch_size"] == 128


MISTAKES = {
    "trian: {epochs: 1}": ["trian", "did you mean 'train'"],
    "train: {epoch: 1}": ["train.epoch", "did you mean 'epochs'"],
    "train: {epochs: many}": ["train.epochs", "whole number", "many"],
    "train: {epochs: true}": ["train.epochs", "true"],
    "train: {epochs: 0}": ["train.epochs 0"],
    "train: {lr: -1}": ["train.lr -1"],
    "train: {lr: .inf}": ["train.lr inf"],
    "train:\n  lr: 1\n  lr_schedule: cosin": [
        "recipe.yaml:3: train.lr_schedule 'cosin'",
        "did you mean 'cosine'",
    ],
    "train: {momentum: 0, nesterov: true}": ["train.nesterov"],
    "train: {momentum: 0.5, optimizer: adamw}": [
        "train.momentum is of sgd and rmsprop, not of adamw"
    ],
    "train: {alpha: 0.5, step_optimizer: adam}": ["train.alpha is of rmsprop, not of adam and sgd"],
    "train: {betas: [0.8, 0.9]}": ["train.betas is of adam and adamw, not of sgd"],
    "train: {eps: 0.1}": ["train.eps"],
    "train: {nesterov: true, optimizer: adam}": ["train.nesterov is of sgd, not of adam"],
    "train: 3": ["train must be a mapping", "3"],
    "[]": ["holds no sections"],
    "path: here": ["unknown key 'path'"],
    "train: {epochs: 1": ["not valid YAML"],
    "train: !!python/object/apply:os.system ['true']": ["not valid YAML"],
    "prune: {end_epoch: 2}": ["prune.groups", "missing"],
    "prune: {end_epoch: 2, groups: []}": ["prune.groups", "at least one"],
    "prune: {end_epoch: 0, groups: [{layers: [a], final_sparsity: 0.5}]}": ["prune.end_epoch 0"],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 1.0}]}": ["final_sparsity 1.0"],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.3, initial_sparsity: 0.4}]}": [
        "groups[0].final_sparsity 0.3 is below",
        "0.4",
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0, initial_sparsity: 0}]}": [
        "prunes nothing"
    ],
    "quantize: {weights: {bits: 4}}": ["quantize.activations", "missing"],
    "quantize: {weights: {bits: 9}, activations: null}": [
        "quantize.weights.bits 9 is not between 1 and 8"
    ],
    "quantize: {weights: null, activations: {bits: 4, decay: 1}}": ["decay 1"],
    "quantize: {weights: {bits: 4, step: learnd}, activations: null}": [
        "quantize.weights.step 'learnd'",
        "range, learned",
        "did you mean 'learned'",
    ],
    "quantize: {weights: {bits: 4, step: true}, activations: null}": [
        "quantize.weights.step must be text, not true",
    ],
    "quantize: {weights: {bits: 4, offset: true}, activations: null}": [
        "unknown key 'quantize.weights.offset', which activations have",
    ],
    "quantize: {weights: null, activations: {bits: 4, symmetric: true}}": [
        "unknown key 'quantize.activations.symmetric', which weights have",
    ],
    "quantize: {weights: null, activations: {bits: 4, offset: true}}": [
        "quantize.activations.offset true is of no use: it belongs to a learned step",
    ],
    "train: {recompute: yes}": ["train.recompute must be text, not true"],
    "quantize: {weights: null, activations: {bits: 4, steps: learned}}": [
        "quantize.activations.steps",
        "did you mean 'step'",
    ],
    "quantize: {weights: {bits: 1.5, step: learned}, activations: null}": [
        "quantize.weights.bits 1.5",
        "3 or more",
    ],
    "quantize: {weights: null, activations: {bits: 4, decay: 0.9, step: learned}}": [
        "quantize.activations.decay 0.9"
    ],
    "quantize: {weights: {bits: 4}, activations: null,"
    " overrides: [{layers: [a], weights: {bits: 4, step: x}}]}": [
        "quantize.overrides[0].weights.step 'x'"
    ],
    "quantize: {weights: {step: learned}, activations: null}": [
        "quantize.weights needs one of bits and levels",
    ],
    "quantize: {weights: null, activations: {bits: 4, levels: 16}}": [
        "quantize.activations needs one of bits and levels",
    ],
    "quantize: {weights: {levels: 1}, activations: null}": ["quantize.weights.levels 1"],
    "quantize: {weights: {levels: 257}, activations: null}": ["levels 257", "between 2 and 256"],
    "quantize: {weights: {levels: 2, step: learned}, activations: null}": [
        "quantize.weights.levels 2",
        "3 or more",
    ],
    "train: {lr: 1, lr: 2}": ["recipe.yaml:1: train.lr is given twice"],
    "train: {lr_schedule: step}": ["train.milestones", "step needs milestones"],
    "train: {milestones: [3]}": ["train.milestones", "nothing else uses them"],
    "train: {lr_schedule: step, milestones: [4, 2]}": ["[4, 2]", "rising"],
    "train: {lr: 0.1, lr_min: 0.2}": ["train.lr_min 0.2"],
    "train: {batch_size: 10, accumulate: 3}": ["train.accumulate 3", "10"],
    "train: {amp: fp16}": ["train.amp 'fp16'", "none, bf16"],
    "train: {clip_grad_norm: -1}": ["train.clip_grad_norm -1"],
    "train: {loss_limit: 0}": ["train.loss_limit 0"],
    "train: {step_lr: 0}": ["train.step_lr 0.0 is no positive number"],
    "train: {step_optimizer: adm}": ["train.step_optimizer 'adm'", "did you mean 'adam'"],
    "train: {reestimate_batches: -1}": ["train.reestimate_batches -1 is negative"],
    "train: {reestimate_batches: 2.5}": ["train.reestimate_batches", "whole number"],
    "distill: {features: layer1, feature_weight: 1}": ["distill.features must be a list"],
    "train: {lr: 1" + "0" * 400 + "}": ["train.lr", "too large"],
    "prune: {groups: [{layers: [a], final_sparsity: 0.5}]}": ["prune.end_epoch is missing"],
    "prune: {method: gradul, end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5}]}": [
        "prune.method 'gradul'",
        "did you mean 'gradual'",
    ],
    "prune: {method: one-shot, end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5}]}": [
        "prune.end_epoch 2 is of no use"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a]}]}": ["groups[0] gives no target"],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5, threshold: 1}]}": [
        "gives final_sparsity and threshold"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], sensitivity: 1}]}": [
        "needs prune.method one-shot"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], threshold: 1, structure: filter}]}": [
        "threshold goes with structure element"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5, structure: filtr}]}": [
        "structure 'filtr'",
        "did you mean 'filter'",
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], structure: '4:4'}]}": ["'4:4' does not keep"],
    "prune: {end_epoch: 2, groups: [{layers: [a], structure: '2:4', final_sparsity: 0.6}]}": [
        "prune.groups[0].final_sparsity 0.6 is not the 0.5 of 2:4"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], structure: '2:4', scope: group}]}": ["scope"],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5, start_epoch: 3}]}": [
        "prune.end_epoch 2 is not after prune.groups[0].start_epoch 3"
    ],
    "prune: {end_epoch: 2, groups: [{layers: [a], final_sparsity: 0.5, criterion: secondorder}]}": [
        "prune.groups[0].criterion 'secondorder'",
        "did you mean 'second-order'",
    ],
    "prune: {end_epoch: 2,"
    " groups: [{layers: [a], final_sparsity: 0.5, criterion: second-order}]}": [
        "prune.groups[0].criterion second-order needs gradients before the first masks",
    ],
    "prune: {start_epoch: 1, end_epoch: 2,"
    " groups: [{layers: [a], threshold: 0.5, criterion: second-order}]}": [
        "prune.groups[0].criterion second-order goes with final_sparsity",
    ],
    "distill: {distill_weight: 0}": ["distill.distill_weight 0"],
    "distill: {start_epoch: -1}": ["distill.start_epoch -1"],
    "distill: {teacher_weights: x.pth}": ["distill.teacher_weights needs distill.teacher"],
    "train: {seed: 2019-99-99}": ["train.seed must be a whole number", "2019-99-99"],
    "? {a: 1}\n: 2": ["not valid YAML"],
    "train: &a {epochs: 3, seed: *a}": ["train.seed"],
    "[" * 3000: ["not valid YAML"],
    "distill: {temperature: 0}": ["distill.temperature 0"],
    "distill: {student_weight: 2}": ["distill.student_weight 2"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_is_one_sentence_with_file_and_key(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for part in MISTAKES[text]:
        assert part in message


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no_such\.yaml"):
        load_recipe(tmp_path / "no_such.yaml")


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_recipe(path)
