"""A range that nothing has set would make every input zero: evaluation refuses it."""

import copy

import pytest
import torch
from torch import nn

import micronet
from micronet.utils.errors import UserError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize("precision", [(4, 4), (8, 8), (None, 4)])
def test_evaluation_before_a_range_is_refused(precision):
    model, images = network(), torch.randn(2, 3, 6, 6)
    micronet.quantize_(model, *precision)
    unset = copy.deepcopy(model).state_dict()
    for _ in range(2):
        with pytest.raises(UserError, match="its input has no range yet"):
            model.eval()(images)
    model.train()(images)
    assert model.eval()(images).isfinite().all()
    model.load_state_dict(unset)
    with pytest.raises(UserError, match="its input has no range yet"):
        model(images)
    micronet.calibrate_(model, [images])
    assert model(images).isfinite().all()


def test_inputs_that_were_all_zero_have_a_range():
    model = network()
    micronet.quantize_(model)
    model.train()(torch.zeros(2, 3, 6, 6))
    assert model.eval()(torch.zeros(1, 3, 6, 6)).shape == (1, 5)


def test_a_structure_without_values_has_none():
    model = network()
    micronet.quantize_(model)
    assert model.eval().to("meta")(torch.empty(1, 3, 6, 6, device="meta")).is_meta
