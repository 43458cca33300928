"""Weights that turn between two levels are counted, frozen and dampened as the definition says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
import micronet_kernels as kernels
from compressed import epoch_of, oscillating, same, small, states, trained
from micronet.compression.oscillations.following import Oscillations
from micronet.compression.oscillations.weight_grid import weight_grid
from micronet.models.shared_layers import owners
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantize import LayerBits, convert_
from micronet.recipe.schema import OscillationSection
from micronet.utils.errors import UserError

STEPS = ("range", "learned")


def begun(step="range", lr=0.05, seed=0, train=None, **oscillations):
    """A network, its compression and its optimizer, as of an epoch."""
    model = small(seed)
    compression = micronet.compress(model, oscillating(step, train, **oscillations))
    compression.begin_epoch(0)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=lr, momentum=0.9)
    return model, compression, optimizer


def integers(model):
    """What the values that each layer computes with are in whole steps."""
    found = {}
    for name, layer in quantized_layers(model):
        if owners(model)[name] == name:
            whole = layer.quantized_weight().detach().flatten(1) * layer.weight_scale()[:, None]
            found[name] = whole.round().view(layer.weight.shape)
    return found


def kind(compression, name):
    """One kind of what is known, by layer."""
    start = f"{name}/"
    state = compression.oscillations.state()
    return {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}


class Definition:
    """The paper's algorithm, weight by weight, without freezing."""

    def __init__(self, whole, momentum):
        self.momentum = momentum
        self.last = {n: w.flatten().tolist() for n, w in whole.items()}
        self.average = {n: list(w) for n, w in self.last.items()}
        self.direction = {n: [0] * len(w) for n, w in self.last.items()}
        self.frequency = {n: [0.0] * len(w) for n, w in self.last.items()}

    def step(self, whole):
        m = self.momentum
        for name, now in whole.items():
            for i, integer in enumerate(now.flatten().tolist()):
                change = integer - self.last[name][i]
                turned = change * self.direction[name][i] < 0
                old = self.frequency[name][i]
                self.frequency[name][i] = m * turned + (1 - m) * old
                self.average[name][i] = m * integer + (1 - m) * self.average[name][i]
                self.direction[name][i] = change or self.direction[name][i]
                self.last[name][i] = integer


@pytest.mark.parametrize("step", STEPS)
def test_turns_are_counted_as_the_paper_says(step, batches):
    model, compression, optimizer = begun(step, momentum=0.1)
    expected = Definition(integers(model), 0.1)
    for images, labels in batches * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        compression.step()
        expected.step(integers(model))
    turned = 0
    for name, frequency in kind(compression, "frequency").items():
        # Sixteen roundings of float32 each, of numbers up to 1 and up to 15.
        exact = torch.tensor(expected.frequency[name])
        assert (frequency.flatten() - exact).abs().max() <= 32 * 2.0**-24
        average = torch.tensor(expected.average[name])
        assert (kind(compression, "average")[name].flatten() - average).abs().max() <= 2.0**-15
        last = torch.tensor(expected.last[name])
        assert torch.equal(kind(compression, "integer")[name].flatten().float(), last)
        turned += int((exact > 0).sum())
    assert turned > 0
    assert compression.oscillations.counts()["frozen"] == 0


@pytest.mark.parametrize("step", STEPS)
def test_the_integers_are_those_of_the_forward_pass(step, batches):
    model, compression, optimizer = begun(step, momentum=0.1, freeze=0.02)
    for number in range(4):
        epoch_of(model, compression, optimizer, batches, number)
        known = kind(compression, "integer")
        assert all(torch.equal(known[n].float(), whole) for n, whole in integers(model).items())
    assert compression.oscillations.counts()["frozen"] > 0


@pytest.mark.parametrize("step", STEPS)
def test_a_frozen_weight_stays_at_its_integer_while_the_step_moves(step, batches):
    model, compression, optimizer = begun(step, momentum=0.1, freeze=0.02)
    for number in range(3):
        epoch_of(model, compression, optimizer, batches, number)
    frozen, before = kind(compression, "frozen"), integers(model)
    scales = {name: layer.weight_scale().clone() for name, layer in quantized_layers(model)}
    assert sum(int(f.sum()) for f in frozen.values()) > 0
    for number in (3, 4):
        epoch_of(model, compression, optimizer, batches, number)
    for name, layer in quantized_layers(model):
        chosen = frozen[name]
        whole = integers(model)[name]
        assert torch.equal(whole[chosen], before[name][chosen])
        scale = layer.weight_scale()[:, None].expand(-1, layer.weight[0].numel())
        place = (whole / scale.reshape(whole.shape))[chosen]
        # The master value follows the step, but for the ends of a range.
        grid = weight_grid(layer)
        low, high = (e[:, None].expand_as(scale).reshape(whole.shape) for e in grid[2:4])
        assert torch.equal(layer.weight[chosen], place.clamp(low[chosen], high[chosen]))
        assert not torch.equal(layer.weight_scale(), scales[name])


def test_a_weight_freezes_at_its_rounded_average():
    """Between 2 and 3, more often at 3."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[-7.0, 8.0, 2.9, 1.0]])
    model = nn.Sequential(layer)
    convert_(model, {"0": LayerBits(4, None)})
    watched = Oscillations(OscillationSection(momentum=0.2, freeze=0.3), 0, 0)
    watched.begin_epoch(model, 0)
    weight = model[0].weight
    values = []
    for value in (2.9, 2.9, 2.2, 2.9, 2.9, 2.2, 2.9, 2.2, 2.9):
        with torch.no_grad():
            weight[0, 2] = value
        watched.update()
        values.append(weight[0, 2].item())
    state = watched.state()
    assert state["frozen/0"].tolist() == [[False, False, True, False]]
    assert state["average/0"][0, 2].round() == 3
    # One level is 1 here: it was 2.9 before, 3 since, whatever the optimizer makes of it.
    assert values[0] == pytest.approx(2.9) and values[-1] == 3.0
    with torch.no_grad():
        weight.copy_(torch.tensor([[-14.0, 16.0, 0.3, 1.0]]))
    watched.update()
    assert weight.tolist() == [[-14.0, 16.0, 6.0, 1.0]]


def test_ends_of_a_range_are_not_frozen():
    """They turn at every step, and are what gives the others their step."""
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[-7.4, 7.6, 1.0]])
    model = nn.Sequential(layer)
    convert_(model, {"0": LayerBits(4, None)})
    watched = Oscillations(OscillationSection(momentum=0.2, freeze=0.1), 0, 0)
    watched.begin_epoch(model, 0)
    for number in range(12):
        with torch.no_grad():
            model[0].weight[0, 0] = -7.6 if number % 2 else -7.4
            model[0].weight[0, 1] = 7.4 if number % 2 else 7.6
        watched.update()
    assert watched.counts() == {"oscillating": 2, "frozen": 0}


def test_masked_weights_are_let_go(batches):
    model, compression, optimizer = begun(momentum=0.1, freeze=0.02)
    for number in range(5):
        epoch_of(model, compression, optimizer, batches, number)
        for name, layer in quantized_layers(model):
            for what in ("integer", "frequency", "frozen"):
                masked = ~kept(compression, name, layer)
                assert not kind(compression, what)[name][masked].any()
    assert compression.oscillations.counts()["frozen"] > 0


def kept(compression, name, layer):
    bits = compression.masks.bits[name]
    return kernels.unpack_bits(bits, layer.weight.numel()).view(layer.weight.shape)


@pytest.mark.parametrize("step", STEPS)
def test_the_loss_pulls_weights_to_their_level(step):
    model, compression, _ = begun(step, dampen=0.5)
    loss = compression.dampening_loss()
    loss.backward()
    total = 0.0
    for _, layer in quantized_layers(model):
        difference = (layer.weight - layer.quantized_weight()).detach().double()
        if step == "learned":
            ends = (layer.weight_zero_point + i for i in (0, layer.weight_levels - 1))
            low, high = (layer.weight_step * end for end in ends)
            rows = layer.weight.flatten(1)
            beyond = (rows < low[:, None]) | (rows > high[:, None])
            difference = difference.masked_fill(beyond.view(difference.shape), 0.0)
            assert layer.weight_step.grad is None
        total += 0.5 * float(difference.square().sum())
        assert torch.equal(layer.weight.grad, difference.float())
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5) and total > 0


def test_values_move_by_a_cosine_from_the_first_epoch_to_the_last():
    section = OscillationSection(freeze=(0.04, 0.01), dampen=(0.0, 0.1))
    model = nn.Sequential(nn.Linear(4, 4))
    convert_(model, {"0": LayerBits(4, None)})
    watched = Oscillations(section, 1, 5)
    found = []
    for epoch in range(1, 7):
        watched.begin_epoch(model, epoch)
        found.append((watched._freeze, watched._dampen))
    assert found[0] == (0.04, 0.0) and found[4] == found[5] == (0.01, 0.1)
    assert found[2] == (pytest.approx(0.025), pytest.approx(0.05))
    assert found[1][0] == pytest.approx(0.01 + 0.03 * (1 + 2**-0.5) / 2)


def test_a_loop_that_leaves_the_loss_out_is_told(batches):
    model, compression, optimizer = begun(dampen=0.1)
    sentence = r"add dampening_loss\(\) to the loss of each step"
    with pytest.raises(UserError, match=sentence):
        epoch_of(model, compression, optimizer, batches, 0)
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    compression.dampening_loss().backward()
    optimizer.step()
    compression.step()
    with pytest.raises(UserError, match=sentence):
        compression.step()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stopped", [1, 3])
def test_a_loop_goes_on_from_its_state_bit_for_bit(step, stopped, batches):
    settings = {"momentum": 0.1, "freeze": [0.05, 0.02], "train": {"model_ema": 0.9}}
    model, compression, optimizer = begun(step, **settings)
    loaded = trained(model, compression, optimizer, batches, 6, stopped)
    other, again, later = begun(step, seed=1, **settings)
    again.load_state_dict(loaded["compression"])
    other.load_state_dict(loaded["model"])
    later.load_state_dict(loaded["optimizer"])
    for epoch in range(stopped, 6):
        epoch_of(other, again, later, batches, epoch)
    assert same(states(model, compression), states(other, again))
    assert same(compression.oscillations.state(), again.oscillations.state())
    assert compression.oscillations.counts()["frozen"] > 0


def test_a_state_of_before_oscillations_were_followed_is_taken(batches):
    model, compression, optimizer = begun(momentum=0.1)
    epoch_of(model, compression, optimizer, batches, 0)
    state = compression.state_dict()
    del state["oscillations"]
    other, again, later = begun(momentum=0.1)
    again.load_state_dict(state)
    epoch_of(other, again, later, batches, 1)
    assert again.oscillations.counts()["oscillating"] >= 0


def test_a_state_of_other_weights_is_refused(batches):
    model, compression, optimizer = begun(momentum=0.1)
    epoch_of(model, compression, optimizer, batches, 0)
    state = compression.state_dict()
    state["oscillations"]["frequency/fc"] = torch.zeros(3)
    with pytest.raises(UserError, match="the state's tensors are of another network"):
        begun(momentum=0.1)[1].load_state_dict(state)
