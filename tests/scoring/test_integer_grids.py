"""Integers behind quantized values: found again, and missed where there are none."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

import micronet.score as score
from micronet.quantization.quantize import LayerBits, convert_
from micronet.scoring.network.integer_grids import OffGridError, integers_at, integers_of
from micronet.scoring.rules.official import OFFICIAL
from micronet.utils.errors import UserError

EPSILON = float(np.finfo(np.float32).eps)
CODES = arrays.arrays(np.int64, (2, 5), elements=st.integers(0, 15))


@given(CODES, st.integers(0, 15), st.floats(1e-6, 1e3))
def test_codes_are_found_again(codes, zero_point, step):
    whole = codes - zero_point
    span = np.maximum(whole.max(axis=1), 0) - np.minimum(whole.min(axis=1), 0)
    values = (whole.astype(np.float32) * np.float32(step)).astype(np.float64)
    assume((span <= 15).all())
    found = integers_of(values, 16, EPSILON)
    # The smallest integers: those of a row divided by what they have in common.
    common = np.gcd.reduce(whole, axis=1)
    assert (found * np.maximum(common, 1)[:, None] == whole).all()
    assert (integers_at(values, np.full(2, float(np.float32(step))), 16, EPSILON) == whole).all()


def test_gaps_of_several_steps():
    values = np.array([[0.0, 2.0, 5.0], [0.0, -6.0, 9.0]])
    assert integers_of(values, 6, EPSILON).tolist() == [[0, 2, 5], [0, -2, 3]]


@pytest.mark.parametrize(
    ("row", "levels"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], 4),  # too many levels
        ([1.0, 1.41421356, 3.14159265, 0.1], 16),  # no common step
        ([5.0, 6.0, 7.0], 4),  # zero is no level
        ([-3.0, 4.0], 7),  # eight levels with what lies between
    ],
)
def test_values_on_no_grid(row, levels):
    with pytest.raises(OffGridError) as error:
        integers_of(np.array([[1.0] * len(row), row]), levels, EPSILON)
    assert error.value.row == 1
    with pytest.raises(OffGridError):
        integers_at(np.array([row]), np.array([0.999]), levels, EPSILON)


def test_a_claim_is_held_to_the_values():
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    codes = torch.tensor([[0, 3, -12], [7, 0, 15]])
    net[0].weight.data.copy_((codes * torch.tensor([[0.1], [0.3]]))[:, :, None, None])
    claim = {"0": LayerBits(4, None)}
    subject = score.describe_network(
        net, 4, bits=claim, sparsities=None, rules=OFFICIAL, name="x.pth"
    )
    # 3 and -12 are 1 and -4 steps of 0.3; 7 and 15 have no divisor in common.
    assert subject.layers["0"].channels[0].negative == 4
    assert subject.layers["0"].channels[1].positive == 22
    assert subject.layers["0"].nonzeros == (2, 2)
    net[0].weight.data[1, 0] = 0.123
    message = "x.pth: layer '0' is claimed to have weights of 4 bits, but output channel 1 is on no"
    with pytest.raises(UserError, match=message):
        score.describe_network(net, 4, bits=claim, sparsities=None, rules=OFFICIAL, name="x.pth")
    # Nobody can tell from weights whether an input is rounded.
    with pytest.raises(UserError, match="is recorded as 4-bit weights and 4-bit inputs, but is"):
        score.describe_network(net, 4, bits={"0": LayerBits(4, 4)}, sparsities=None, rules=OFFICIAL)


def test_a_channel_need_not_reach_both_ends_of_its_range():
    net = nn.Sequential(nn.Conv2d(4, 3, 1))
    # Of the first the ends are -6.5 and 8.5 steps, which round to -6 and 8; the last is zeros.
    rows = torch.tensor(
        [[-1.2928787469863892, 1.6906875371932983, 0.5, 0.0], [-1.0, 1.0, 0.3, 0.1], [0.0] * 4]
    )
    net[0].weight.data.copy_(rows[:, :, None, None])
    bits = {"0": LayerBits(4, 4)}
    convert_(net, bits)
    subject = score.describe_network(net, 4, 4, bits=bits, sparsities=None, rules=OFFICIAL)
    channels = subject.layers["0"].channels
    assert (channels[0].largest, channels[0].negative) == (8, 6)
    assert channels[2].largest == 0
