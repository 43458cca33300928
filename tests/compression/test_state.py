"""A loop goes on from its state, and from no other's."""

import pytest
import torch
from torch import nn

import micronet
from compressed import BOTH, PRUNE, epoch_of, recipe, same, small, states, trained
from micronet.quantization import quantize
from micronet.utils.errors import UserError


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("stopped", [1, 2])
def test_a_loop_goes_on_from_its_state_bit_for_bit(step, stopped, batches):
    precision = {"bits": 4, "step": step}
    plan = recipe(
        train={"model_ema": 0.9, "epochs": 4},
        prune=PRUNE,
        quantize={"start_epoch": 1, "weights": precision, "activations": precision},
    )

    def begin(seed):
        model = small(seed)
        return model, micronet.compress(model, plan)

    def optimizer_of(compression):
        return torch.optim.AdamW(compression.parameter_groups(), lr=0.01)

    model, compression = begin(0)
    optimizer = optimizer_of(compression)
    loaded = trained(model, compression, optimizer, batches, 4, stopped)
    other, again = begin(1)
    again.load_state_dict(loaded["compression"])
    other.load_state_dict(loaded["model"])
    later = optimizer_of(again)
    later.load_state_dict(loaded["optimizer"])
    for epoch in range(stopped, 4):
        epoch_of(other, again, later, batches, epoch)
    assert same(states(model, compression), states(other, again))
    assert again.num_updates == compression.num_updates == 16


def test_a_foreign_state_is_refused():
    compression = micronet.compress(small(), recipe(prune=PRUNE, quantize=BOTH))
    compression.begin_epoch()
    state = compression.state_dict()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4))
    other(torch.zeros(1, 3, 5, 5))
    with pytest.raises(UserError, match=r"a state of another network, with a layer 'first\.0'"):
        micronet.compress(other, recipe(prune=PRUNE)).load_state_dict(state)
    for wrong in (
        {},
        {**state, "epoch": "x"},
        {**state, "masks": 3},
        {**state, "bits": {"fc": {}}},
    ):
        with pytest.raises(UserError, match="this is no state of a compression"):
            micronet.compress(small(), recipe(prune=PRUNE)).load_state_dict(wrong)
    eight = {"weights": {"bits": 8}, "activations": {"bits": 8}}
    with pytest.raises(UserError, match="other bits or steps"):
        micronet.compress(small(), recipe(quantize=eight)).load_state_dict(state)
    with pytest.raises(UserError, match=r"mask 'first\.0' is no tensor, but list"):
        masks = {"masks": {"first.0": [1]}}
        micronet.compress(small(), recipe(prune=PRUNE)).load_state_dict({**state, **masks})


def test_a_state_does_not_say_what_layers_are_not():
    state = micronet.compress(small(), recipe(prune=PRUNE, quantize=BOTH)).state_dict()
    for bits in ({}, quantize.bits_to_dict(micronet.quantize_(small(), 8, 8).bits)):
        model = small()
        micronet.quantize_(model, 4, 4)
        compression = micronet.compress(model, recipe(prune=PRUNE))
        with pytest.raises(UserError, match="the network is already quantized at other bits"):
            compression.load_state_dict({**state, "bits": bits})
        assert compression.bits["fc"].weight_bits == model.fc.bits.weight_bits == 4
