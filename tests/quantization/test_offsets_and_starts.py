"""Learned offsets, where learned steps start, and symmetric weights."""

import math

import pytest
import torch
from torch import nn

from micronet.compression import parameters
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer

OFFSET = LayerBits(4, 4, weight_step="learned", activation_step="learned", offset=True)


def converted(model, bits):
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), bits))
    return model


def test_an_offset_and_its_gradients_in_closed_form():
    """One neuron, by hand: the zero point is the offset in steps, rounded."""
    model = converted(nn.Sequential(nn.Linear(3, 1, bias=False)), OFFSET)
    layer, quantizer = model[0], model[0].input_quantizer
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -0.5, 0.25]]))
        layer.weight_step.fill_(0.25)
    quantizer(torch.tensor([[-1.0, 0.0, 4.0]]))
    with torch.no_grad():
        quantizer.step_size.fill_(0.5)
        quantizer.offset.fill_(-1.3)  # -2.6 steps: the zero point is -3, the highest integer 12
    x = torch.tensor([[0.7, -2.0, 9.0]], requires_grad=True)  # t = 1.4, -4, 18; i = 1, -3, 12
    y = model(x)
    assert float(y.detach()) == 0.5 * (1 * 1.0 + 3 * 0.5 + 12 * 0.25)
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0, 0.0]]))
    # The zero point of the first batch was -3 too, so that Qp is 12; N is 3.
    scale = 1 / math.sqrt(3 * 12)
    expected = 1.0 * (1 - 1.4) - 0.5 * -3 + 0.25 * 12
    assert float(quantizer.step_size.grad) == pytest.approx(expected * scale, rel=2e-6)
    assert float(quantizer.offset.grad) == pytest.approx((-0.5 + 0.25) * scale, rel=2e-6)


@pytest.mark.parametrize("offset,zero", [(3.0, 0), (0.2, 0), (-0.3, -1), (-7.4, -15), (-99.0, -15)])
def test_zero_stays_exact_wherever_the_offset_goes(offset, zero):
    quantizer = LearnedActivationQuantizer(16, has_offset=True)
    quantizer(torch.tensor([[-1.0, 4.0]]))
    with torch.no_grad():
        quantizer.step_size.fill_(0.5)
        quantizer.offset.fill_(offset)
    assert float(quantizer.whole_zero_point()) == zero
    assert quantizer.ends() == (0.5 * zero, 0.5 * (zero + 15))
    assert torch.equal(quantizer.eval()(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_offset_of_an_input_that_was_never_negative_has_no_gradient():
    model = converted(nn.Sequential(nn.Linear(3, 2)), OFFSET)
    x = torch.rand(4, 3)
    model(x)
    model(x).sum().backward()
    quantizer = model[0].input_quantizer
    assert float(quantizer.offset.grad) == 0 and float(quantizer.step_size.grad) != 0


def test_offsets_are_trained_with_the_steps():
    model = converted(nn.Sequential(nn.Linear(3, 2)), OFFSET)
    quantizer = model[0].input_quantizer
    trained = {id(p) for p in parameters.learned_by_quantizers(model)}
    assert trained == {id(p) for p in (model[0].weight_step, quantizer.step_size, quantizer.offset)}


@pytest.mark.parametrize("has_offset", [False, True])
def test_a_range_is_where_a_step_may_start(rng, has_offset):
    x = torch.rand(8, 5, generator=rng) * 3 - 1
    x[0, 0], x[0, 1] = -1.0, 2.0
    quantizer = LearnedActivationQuantizer(16, has_offset, "range")
    y = quantizer(x)
    assert float(quantizer.step_size.detach()) == pytest.approx(3 / 15)
    assert float(quantizer.zero_point) == -5
    assert (y - x).abs().max() <= 0.1001
    if has_offset:
        assert float(quantizer.offset.detach()) == pytest.approx(-1.0)


def test_the_least_error_is_where_a_step_may_start(rng):
    """Of a normal input at 4 levels the best ends lie far inside of the extremes."""
    x = torch.randn(200, 50, generator=rng)
    errors = {}
    for start in ("range", "mse"):
        quantizer = LearnedActivationQuantizer(4, start=start)
        errors[start] = float((quantizer(x).detach() - x).square().mean())
    assert errors["mse"] < 0.6 * errors["range"]
    nothing = LearnedActivationQuantizer(4, start="mse")
    assert torch.equal(nothing(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_the_start_of_many_bits_is_that_of_few(rng):
    """A step that starts at 8 bits on its way to 4 reaches as far as that of 4."""
    x = torch.randn(50, 20, generator=rng)
    few, many = LearnedActivationQuantizer(16), LearnedActivationQuantizer(256)
    many.start_levels = 16
    few(x), many(x)
    assert few.ends()[1] == pytest.approx(many.ends()[1], rel=0.1)


@pytest.mark.parametrize("bits,largest", [(4, 7), (8, 127), (2, 1), (2.4, 2)])
def test_symmetric_weights_have_as_many_values_on_either_side(rng, bits, largest):
    model = converted(nn.Sequential(nn.Conv2d(3, 4, 3)), LayerBits(bits, None, symmetric=True))
    layer = model[0]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng))
        layer.weight[2].abs_()
    whole = layer.quantized_weight().detach() * layer.weight_scale()[:, None, None, None]
    assert (whole - whole.round()).abs().max() < 1e-4
    ends = layer.weight.detach().flatten(1).abs().amax(1)
    assert torch.allclose(layer.weight_scale(), largest / ends)
    assert whole.round().abs().flatten(1).amax(1).tolist() == [largest] * 4


@pytest.mark.parametrize(
    "wrong,sentence",
    [
        (
            {"symmetric": True, "weight_step": "learned"},
            "symmetric is of weights whose step follows",
        ),
        ({"weight_bits": 1, "symmetric": True}, "too few for symmetric weights"),
        ({"offset": True}, "offset is of a learned activation_step"),
        ({"activation_start": "first"}, "activation_start is 'first', but must be 'mean' or"),
    ],
)
def test_what_cannot_be_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        LayerBits(**{"weight_bits": 4, "activation_bits": 4, **wrong})
