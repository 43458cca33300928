"""What cannot be packed is refused by its name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from micronet.utils.errors import UserError
from packed_networks import FOUR, compressed, packed

SHAPE = (4, 6, 6)


class Around(nn.Module):
    """A convolution, and something behind it."""

    def __init__(self, what, **options):
        super().__init__()
        self.conv, self.what = nn.Conv2d(4, 4, 3, padding=1, **options), what
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.what(self, self.conv(x))


def twice_read(model, x):
    return model.norm(x) + x


def by_values(model, x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda model, x: F.gelu(x), "the format has no node for gelu"),
        (lambda model, x: x - 1, "the format has no node for"),
        (lambda model, x: 2 * x, "of other operands than a signal and its factors"),
        (lambda model, x: x.mean(1), "over other axes than all positions"),
        (lambda model, x: F.adaptive_avg_pool2d(x, 2), "to more than one position"),
        (lambda model, x: x.flatten(), "across images"),
        (lambda model, x: x[:1], "across images"),
        (lambda model, x: F.pad(x, (1, 1), value=1.0), "by other things than zeros"),
        (lambda model, x: F.hardtanh(x), "with other ends than 0 and 6"),
        (lambda model, x: (x, x), "it returns tuple"),
        (lambda model, x: model.norm(F.relu(x)), "for batch_norm that follows no convolution"),
        (twice_read, "a normalization reads what is read elsewhere too"),
        (lambda model, x: model.conv(x), "is called twice"),
        (lambda model, x: torch.ones(2, 4) * 1, "its output reads what is made by nothing"),
        (by_values, "the format has no node for sum"),
    ],
)
def test_operators_without_a_node(what, message):
    model = compressed(Around(what), SHAPE, {"conv": FOUR})
    with pytest.raises(UserError, match=message) as caught:
        packed(model, SHAPE)
    assert "test cannot be exported" in str(caught.value)


def test_layers_of_no_arithmetic_of_the_page():
    model = compressed(Around(lambda m, x: x, padding_mode="reflect"), SHAPE, {"conv": FOUR})
    with pytest.raises(UserError, match="layer 'conv' pads with 'reflect', not zeros"):
        packed(model, SHAPE)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))
    model = compressed(model, SHAPE, {"0": FOUR}, sparsity=0)
    with pytest.raises(UserError, match="the format has no node for conv_transpose2d"):
        packed(model, SHAPE)


def test_networks_that_are_not_ready():
    with pytest.raises(UserError, match="nothing in it is quantized"):
        packed(nn.Sequential(nn.Conv2d(4, 4, 3)), SHAPE)
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    micronet.quantize_(model, weights=4, activations=4)
    with pytest.raises(UserError, match="has never seen data"):
        packed(model, SHAPE)
    model = compressed(nn.Sequential(nn.Conv2d(4, 4, 3)), SHAPE, {"0": FOUR})
    with pytest.raises(UserError, match="cannot be exported"):
        packed(model, (3, 6, 6))


class Moody(nn.Module):
    """A network whose graph depends on values in a way that no function shows."""

    def __init__(self):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(4, 4, 1), 0

    def forward(self, x):
        self.calls += 1
        x = self.conv(x)
        return x if self.calls % 2 else F.relu(x)


def test_a_graph_of_other_logits_is_not_kept(tmp_path):
    model = compressed(Moody(), SHAPE, {"conv": FOUR})
    with pytest.raises(UserError, match="the packed graph gives other logits than the network"):
        micronet.export(model, tmp_path / "out", image_size=6, channels=4)
    assert not (tmp_path / "out").exists()
