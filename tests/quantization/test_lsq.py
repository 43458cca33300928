"""Layers with learned steps: their start, values and gradients, and what they count as."""

import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import micronet.score as score
import micronet_kernels as kernels
from micronet.compression.compression import Compression
from micronet.compression.plan import CompressionPlan
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits, QuantizedConv2d
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer
from micronet.recipe.schema import TrainSection
from micronet.training import optimizer

LEARNED = LayerBits(4, 4, weight_step="learned", activation_step="learned")


def converted(model, masks=None, bits=LEARNED):
    quantize.convert_(model, {name: bits for name in architectures.layers(model)}, masks)
    return model


def small_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


# Start -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits,largest", [(4, 7), (2.4, 2), (2, 1), (8, 127)])
def test_weight_steps_start_from_the_kept_weights_of_their_channel(rng, bits, largest):
    model = nn.Sequential(nn.Linear(30, 6))
    keep = torch.rand(6, 30, generator=rng) < 0.5
    keep[2], keep[3, 0] = False, True
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(6, 30, generator=rng))
        model[0].weight[4] = 0.0
    weight = model[0].weight.detach().clone()
    converted(model, {"0": kernels.pack_bits(keep)}, LayerBits(bits, None, weight_step="learned"))
    layer = model[0]
    for channel in (0, 1, 3, 5):
        mean = weight[channel][keep[channel]].abs().double().mean()
        expected = 2 * float(mean) / math.sqrt(largest)
        assert float(layer.weight_step[channel].detach()) == pytest.approx(expected, rel=1e-6)
    assert layer.weight_step[2] == layer.weight_step[4] == 1.0
    levels = kernels.levels_of_bits(bits)
    assert (layer.weight_zero_point == -(levels // 2)).all()


@pytest.mark.parametrize(
    "low,high,zero", [(0, 3, 0), (0.5, 3, 0), (-1, 2, -5), (-4, -1, -15), (-0.278, 6, -1)]
)
def test_first_batch_sets_the_step_and_the_zero_point_of_an_input(rng, low, high, zero):
    x = torch.rand(8, 5, generator=rng) * (high - low) + low
    x[3, 1], x[4, 2] = low, high
    quantizer = LearnedActivationQuantizer(16)
    quantizer(x)
    assert float(quantizer.zero_point) == zero
    expected = 2 * float(x.double().abs().mean()) / math.sqrt(max(15 + zero, 1))
    assert float(quantizer.step_size.detach()) == pytest.approx(expected, rel=1e-6)
    before = [t.clone() for t in quantizer.state_dict().values()]
    quantizer(100 * x)
    quantizer.eval()(x)
    after = quantizer.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_input_of_zeros_starts_with_step_1():
    quantizer = LearnedActivationQuantizer(16)
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert (float(quantizer.step_size.detach()), float(quantizer.zero_point)) == (1.0, 0.0)


def test_unready_until_a_training_batch_and_after_reloading():
    model = converted(small_net())
    names = ["0.input_quantizer", "3.input_quantizer"]
    x = torch.randn(2, 3, 6, 6)
    assert model.eval()(x).isnan().all() and quantize.uninitialized(model) == names
    model.train()(x)
    assert quantize.uninitialized(model) == []
    fresh = converted(small_net())
    fresh.load_state_dict(model.state_dict())
    assert quantize.uninitialized(fresh) == []
    fresh.train()(50 * x)
    key = "0.input_quantizer.step_size"
    assert torch.equal(fresh.state_dict()[key], model.state_dict()[key])
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


class NoReadBack(TorchDispatchMode):
    """Refuses what makes the host wait for a value of the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_only_the_first_batch_waits_for_the_device():
    model = converted(small_net())
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(AssertionError), NoReadBack():
        model(x)
    model = converted(small_net())
    model(x)
    with NoReadBack():
        model(x).sum().backward()


# Values and gradients ----------------------------------------------------------------------------


def test_values_and_gradients_in_closed_form():
    """One neuron, by hand: t = x / step is rounded, inside the ends or clamped to one."""
    model = converted(nn.Sequential(nn.Linear(2, 1, bias=False)))
    layer = model[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.9, -0.35]]))  # t = 3.6, -1.4; i = 4, -1
        layer.weight_step.fill_(0.25)
    quantizer = layer.input_quantizer
    quantizer(torch.ones(1, 2))
    with torch.no_grad():
        quantizer.step_size.fill_(0.5)
    x = torch.tensor([[1.2, 9.0]], requires_grad=True)  # t = 2.4, 18; i = 2, 15 (clamped)
    y = model(x)
    assert float(y.detach()) == 1.0 * 1.0 - 0.25 * 7.5
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0]]))
    assert torch.equal(layer.weight.grad, torch.tensor([[1.0, 7.5]]))
    # 1.0 * (4 - 3.6) + 7.5 * (-1 + 1.4), and 1.0 * (2 - 2.4) - 0.25 * 15; a few roundings each.
    assert float(layer.weight_step.grad) == pytest.approx(3.4 / math.sqrt(2 * 7), rel=2e-6)
    assert float(quantizer.step_size.grad) == pytest.approx(-4.15 / math.sqrt(2 * 15), rel=2e-6)


def test_operands_are_whole_multiples_of_their_steps(rng):
    layer = QuantizedConv2d(nn.Conv2d(3, 8, 3), LEARNED)
    layer.start_weight_steps()
    weight = layer.quantized_weight().detach()
    multiples = torch.arange(-8.0, 8.0)
    for channel, step in zip(weight, layer.weight_step.detach(), strict=True):
        inverse = torch.ones_like(step) / step
        assert set(channel.flatten().tolist()) <= set((multiples / inverse).tolist())
    x = torch.rand(2, 3, 9, 9, generator=rng)
    assert len(layer.input_quantizer(x).unique()) <= 16


def test_pruned_weights_are_zero_and_get_no_gradient_in_any_memory_order(rng):
    """A layer of one channel has one step for the whole tensor, and still a mask in its order."""
    for channels in (1, 4):
        source = nn.Conv2d(5, channels, 3).to(memory_format=torch.channels_last)
        keep = torch.rand(source.weight.shape, generator=rng) < 0.5
        model = converted(nn.Sequential(source), {"0": kernels.pack_bits(keep)})
        layer = model[0]
        model(torch.randn(2, 5, 8, 8, generator=rng)).square().sum().backward()
        assert (layer.quantized_weight()[~keep] == 0).all()
        assert (layer.weight.grad[~keep] == 0).all() and (layer.weight.grad[keep] != 0).any()
        assert layer.weight_step.grad.shape == (channels,)


# Training ----------------------------------------------------------------------------------------


def test_weight_decay_leaves_steps_alone():
    section = TrainSection(lr=0.5, momentum=0.9, weight_decay=0.1)
    model = converted(small_net())
    sgd = optimizer.make_optimizer(Compression(model, CompressionPlan(), section), section)
    late = small_net()
    plan = CompressionPlan(bits=dict.fromkeys(architectures.layers(late), LEARNED))
    compression = Compression(late, plan, section)
    late_sgd = optimizer.make_optimizer(compression, section)
    compression.begin_epoch(0, late_sgd)
    for network, its in ((model, sgd), (late, late_sgd)):
        trained = [p for group in its.param_groups for p in group["params"]]
        assert {id(p) for p in trained} == {id(p) for p in network.parameters()}
        assert len(trained) == len(list(network.parameters()))
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        its.step()
        for name, p in network.named_parameters():
            decayed = before[name] if "step" in name else before[name] * 0.95
            torch.testing.assert_close(p.detach(), decayed)


def test_inputs_that_are_not_finite_are_named_in_execution_order():
    model = converted(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2)))
    model(torch.rand(2, 3))
    with torch.no_grad():
        model[0].bias[1] = torch.inf
    assert quantize.nonfinite_inputs(model, torch.rand(2, 3)) == ["2", "3"]
    assert all(not layer._forward_pre_hooks for layer in architectures.layers(model).values())


def test_first_batch_that_is_not_finite_breaks_its_step():
    model = converted(small_net())
    x = torch.randn(2, 3, 6, 6)
    x[1, 2, 3, 4] = torch.nan
    assert model(x).isnan().any()
    assert quantize.uninitialized(model) == []
    assert quantize.nonfinite_inputs(model, x)[0] == "0"
    steps = quantize.learned_steps(model)
    assert next(iter(quantize.invalid_steps(steps))) == "the input of layer '0'"


def test_broken_steps_are_named_with_their_value():
    steps = quantize.learned_steps(converted(small_net()))
    assert len(steps) == 4 and quantize.invalid_steps(steps) == {}
    with torch.no_grad():
        steps["the weights of layer '0'"][2] = -2.0
        steps["the input of layer '3'"].fill_(torch.inf)
    broken = {"the weights of layer '0'": -2.0, "the input of layer '3'": torch.inf}
    assert quantize.invalid_steps(steps) == broken


# What else reads a run ---------------------------------------------------------------------------


def test_score_counts_the_same_as_for_ranges_and_never_fewer_weights_than_codes():
    scores = []
    for bits in (LayerBits(4, 4), LEARNED):
        torch.manual_seed(0)
        model = architectures.create_model("efficientnet-micro", 10)
        layers = architectures.layers(model)
        with torch.no_grad():
            for layer in layers.values():
                layer.weight.masked_fill_(torch.rand_like(layer.weight) < 0.5, 0.0)
        plan = {name: bits for name in layers}
        quantize.convert_(model, plan)
        scores.append(score.score_model(model, 32, bits=plan, rules=score.RULES["seed"]))
    ranges, learned = scores
    assert (ranges.storage, ranges.operations) == (learned.storage, learned.operations)
    assert ranges.storage_dense == learned.storage_dense
    for name, layer in architectures.layers(model).items():
        codes = int(kernels.count_nonzero(layer.quantized_weight().detach()))
        assert codes <= learned.subject.nonzeros[name]
        assert (layer.quantized_weight()[layer.weight == 0] == 0).all()


def test_headers_without_steps_are_ranges():
    old = {"weight_bits": 4.0, "activation_bits": None, "decay": 0.99}
    assert quantize.bits_from_dict({"fc": old}) == {"fc": LayerBits(4, None)}
    plan = {"fc": LEARNED}
    assert quantize.bits_from_dict(json.loads(json.dumps(quantize.bits_to_dict(plan)))) == plan


@pytest.mark.parametrize("operand", ["weight_step", "activation_step"])
def test_a_misspelled_step_is_no_step(operand):
    with pytest.raises(
        ValueError, match=rf"{operand} is 'lerned', but must be 'range' or 'learned'"
    ):
        LayerBits(4, 4, **{operand: "lerned"})
