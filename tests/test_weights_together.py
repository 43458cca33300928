"""One call quantises all weights of a forward pass, with the bits of each layer's own call."""

import copy

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet import models, opcount, quantize
from micronet.quantize import LayerBits

CALLS = ("fake_quant_weights", "fake_quant_per_channel")
# Of the 37 layers all but the stem, one with a learned step, one of float weights and one of codes.
TOGETHER = 33


def network(rng):
    """Convolutions and linear layers of several precisions, two of them pruned."""
    model = models.create_model("efficientnet-micro", 10).to(memory_format=torch.channels_last)
    layers = models.layers(model)
    pruned = list(layers)[1:3]
    keeps = {name: torch.rand(layers[name].weight.shape, generator=rng) < 0.6 for name in pruned}
    plan = dict.fromkeys(layers, LayerBits(4, 4))
    # Convolutions of codes quantise their own weights, so that only one layer is one.
    for name in set(layers) - {list(layers)[3]}:
        plan[name] = LayerBits(4, None)
    plan[models.stem_name(model)] = LayerBits(None, None)
    plan[models.classifier_name(model)] = LayerBits(2.4, None)
    plan[list(layers)[4]] = LayerBits(4, 4, weight_step="learned")
    plan[list(layers)[5]] = LayerBits(None, 4)
    quantize.convert_(model, plan, {n: kernels.pack_bits(keep) for n, keep in keeps.items()})
    return model


def apart(model):
    """A copy whose layers each quantise their own weights."""
    model = copy.deepcopy(model)
    model._forward_pre_hooks.clear()
    model._forward_hooks.clear()
    return model


@pytest.fixture
def calls(monkeypatch):
    """How often each of the two operators is called from here on."""
    counts = dict.fromkeys(CALLS, 0)

    def counted(name, real):
        def call(*args):
            counts[name] += 1
            return real(*args)

        return call

    for name in CALLS:
        monkeypatch.setattr(kernels, name, counted(name, getattr(kernels, name)))
    return counts


def ready(model):
    return [m for m in model.modules() if getattr(m, "ready_weight", None) is not None]


@pytest.fixture
def images(rng):
    return torch.randn(4, 3, 32, 32, generator=rng)


def test_values_and_gradients_have_the_bits_of_each_layers_own_call(rng, images, calls):
    together = network(rng)
    own = apart(together)
    answers = []
    for model, expected in ((together, (1, 0)), (own, (0, TOGETHER))):
        before = dict(calls)
        torch.manual_seed(0)
        logits = model(images)
        assert tuple(calls[name] - before[name] for name in CALLS) == expected
        logits.square().sum().backward()
        with torch.no_grad():
            answers.append((logits, model.eval()(images)))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    for ours, theirs in zip(together.parameters(), own.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_no_weight_outlives_its_pass(rng, images):
    model = network(rng)
    model(images)
    assert ready(model) == []
    seen = []
    last = models.layers(model)[models.classifier_name(model)]

    def fail(layer, inputs):
        seen.extend(ready(model))
        raise ValueError("stop here")

    hook = last.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="stop here"):
        model(images)
    hook.remove()
    assert len(seen) == TOGETHER and ready(model) == []
    before = model.eval()(images)
    with torch.no_grad():
        last.weight.neg_()
    assert torch.equal(model(images), apart(model)(images))
    assert not torch.equal(model(images), before)


def test_a_layer_called_alone_quantises_its_own_weights(rng, calls):
    model = network(rng)
    layer = models.layers(model)[models.classifier_name(model)]
    x = torch.randn(2, layer.in_features, generator=rng)
    weight = kernels.fake_quant_per_channel(layer.weight, 5)
    assert torch.equal(layer(x), nn.functional.linear(x, weight, layer.bias))
    assert calls == {"fake_quant_weights": 0, "fake_quant_per_channel": 2}


def test_copies_use_their_own_weights(rng, images):
    model = network(rng)
    model(images)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in models.layers(twin).values():
            layer.weight.neg_()
    before = model.eval()(images)
    twin.eval()
    assert torch.equal(twin(images), apart(twin)(images))
    assert torch.equal(model(images), before) and not torch.equal(twin(images), before)
    assert ready(model) == ready(twin) == []


class Twice(nn.Module):
    """Applies one layer twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x).relu())


def test_layer_that_is_used_twice_gets_both_gradients(rng, calls):
    model = Twice()
    keep = torch.rand(6, 6, generator=rng) < 0.5
    quantize.convert_(model, {"layer": LayerBits(4, None)}, {"layer": kernels.pack_bits(keep)})
    own = apart(model)
    x = torch.randn(3, 6, generator=rng)
    for network in (model, own):
        network(x).square().sum().backward()
    assert calls == {"fake_quant_weights": 1, "fake_quant_per_channel": 2}
    assert torch.equal(model.layer.weight.grad, own.layer.weight.grad)
    assert (model.layer.weight.grad[~keep] == 0).all()


def test_converting_in_two_steps_quantises_once_a_pass(calls):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    quantize.convert_(model, {"0": LayerBits(4, None)})
    quantize.convert_(model, {"0": LayerBits(4, None), "1": LayerBits(4, None)})
    model(torch.randn(2, 4))
    assert calls == {"fake_quant_weights": 1, "fake_quant_per_channel": 0}


def test_walk_of_a_network_counts_the_same(rng):
    model = network(rng)
    assert opcount.walk(model, 32) == opcount.walk(apart(model), 32)
