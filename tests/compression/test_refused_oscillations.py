"""What a recipe may say of oscillations, and what it is told where it says something else."""

import pytest

import micronet
from compressed import oscillating, recipe, small
from micronet.utils.errors import UserError

WRONG = {
    "momentum 1.0 is not between 0 and 1": {"momentum": 1.0},
    "freeze 0.0 is not between 0 and 1": {"freeze": 0.0},
    r"freeze \[0.1, 1.5\] is not between 0 and 1": {"freeze": [0.1, 1.5]},
    r"dampen \[0.1, 0.2, 0.3\] is neither one number nor two": {"dampen": [0.1, 0.2, 0.3]},
    "dampen -1.0 is negative": {"dampen": -1.0},
    "dampen 0.0 dampens nothing": {"dampen": 0},
    "unknown key 'quantize.oscillations.frozen'": {"frozen": 0.1},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_mistakes_are_one_sentence(sentence):
    with pytest.raises(UserError, match=sentence):
        oscillating(**WRONG[sentence])


def test_a_pair_needs_epochs():
    quantize = {"weights": {"bits": 4}, "activations": None, "oscillations": {"freeze": [0.1, 0.2]}}
    with pytest.raises(UserError, match=r"moves over train\.epochs, but there is no train section"):
        recipe(quantize=quantize)


def test_float_weights_do_not_oscillate():
    section = {"weights": None, "activations": {"bits": 4}, "oscillations": {}}
    with pytest.raises(UserError, match="follows quantized weights, but no layer has any"):
        micronet.compress(small(), recipe(quantize=section))


def test_a_recipe_comes_back_from_its_text():
    made = oscillating(freeze=[0.1, 0.02], dampen=0.5)
    assert micronet.Recipe.from_dict(made.to_dict()) == made
    assert made.quantize.oscillations.freeze == (0.1, 0.02)
