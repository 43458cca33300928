"""Quantized layers: their plan, their arithmetic, their gradients, and SAME padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding
from torch import nn

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.deterministic_layers import FloatConv2d
from micronet.quantization.quantize import LayerBits, QuantizedConv2d, QuantizedLinear
from micronet.recipe.schema import (
    ActivationPrecision,
    QuantizeOverride,
    QuantizeSection,
    WeightPrecision,
)
from micronet.utils.errors import UserError

BITS = LayerBits(4, 4)


def section(*overrides, weights=4.0, activations=4.0):
    return QuantizeSection(
        None if weights is None else WeightPrecision(weights),
        None if activations is None else ActivationPrecision(activations, 0.9),
        overrides,
    )


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(96, 5)
    )


def test_plan_follows_overrides():
    plan = quantize.plan(
        net(),
        section(
            QuantizeOverride(("4",), weights=WeightPrecision(2.4), activations=None),
            QuantizeOverride(("0",), weights=None, activations=None),
        ),
    )
    assert plan["0"].is_float
    assert (plan["2"].weight_levels, plan["2"].activation_levels) == (16, 16)
    assert plan["2"].decay == 0.9
    assert (plan["4"].weight_levels, plan["4"].activation_levels) == (5, None)


def test_levels_and_bits_say_the_same():
    in_levels = QuantizeSection(WeightPrecision(levels=5), ActivationPrecision(levels=16))
    in_bits = QuantizeSection(WeightPrecision(2.4), ActivationPrecision(4))
    model = net()
    one, other = quantize.plan(model, in_levels), quantize.plan(model, in_bits)
    for name, layer in one.items():
        assert layer.weight_levels == other[name].weight_levels == 5
        assert layer.activation_bits == 4.0 and layer.activation_levels == 16
        assert layer.weight_bits == pytest.approx(math.log2(5))


def test_override_without_a_layer_is_an_error():
    with pytest.raises(UserError, match=r"quantize.overrides\[0\].layers: 'fc' is no layer"):
        quantize.plan(net(), section(QuantizeOverride(("fc",), weights=None)))


@pytest.mark.parametrize(
    "mistaken",
    [
        section(weights=None, activations=None),
        section(QuantizeOverride(("*",), activations=None)),
    ],
)
def test_quantizing_nothing_is_an_error(mistaken):
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        quantize.plan(net(), mistaken, "recipe.yaml")


def test_conversion_keeps_parameters_names_and_other_layers():
    model = net()
    before = dict(model.named_parameters())
    quantize.convert_(model, quantize.plan(model, section(QuantizeOverride(("0",), None, None))))
    assert {k: id(v) for k, v in model.named_parameters()} == {k: id(v) for k, v in before.items()}
    # In float, with sums in a stated order.
    assert type(architectures.layers(model)["0"]) is FloatConv2d
    assert isinstance(architectures.layers(model)["2"], QuantizedConv2d)
    assert isinstance(architectures.layers(model)["4"], QuantizedLinear)


def test_forward_is_the_convolution_of_quantized_operands():
    source = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    layer = QuantizedConv2d(source, BITS)
    x = torch.randn(4, 6, 9, 9)
    y = layer(x)
    quantized = kernels.fake_quant_per_tensor(x, layer.input_quantizer.range, 16)
    w = kernels.fake_quant_per_channel(source.weight, 16)
    # Integers are summed exactly, values are not.
    assert torch.allclose(y + 0, F.conv2d(quantized, w, source.bias, 2, 1, 1, 2), atol=1e-5)
    assert len(quantized.unique()) <= 16
    assert all(len(channel.unique()) <= 16 for channel in w)


def test_evaluation_freezes_the_range():
    layer = QuantizedConv2d(nn.Conv2d(3, 4, 1), BITS)
    layer(torch.randn(2, 3, 5, 5))
    frozen = layer.input_quantizer.range.clone()
    layer.eval()
    x = 100 * torch.randn(2, 3, 5, 5)
    first = layer(x)
    assert torch.equal(layer.input_quantizer.range, frozen)
    assert int(layer.input_quantizer.step) == 1
    assert torch.equal(layer(x), first)


def test_pruned_weights_are_zero_and_get_no_gradient():
    layer = QuantizedConv2d(nn.Conv2d(5, 7, 3), BITS)
    keep = torch.rand(layer.weight.shape) < 0.4
    quantize.share_masks(nn.ModuleDict({"a": layer}), {"a": kernels.pack_bits(keep.flatten())})
    x = torch.randn(2, 5, 8, 8, requires_grad=True)
    layer(x).square().sum().backward()
    assert (layer.weight.grad[~keep] == 0).all()
    assert (layer.weight.grad[keep] != 0).any() and (x.grad != 0).any()
    w = kernels.fake_quant_per_channel(layer.weight, 16, layer.mask)
    assert (w[~keep] == 0).all()


@pytest.mark.parametrize(
    "size,kernel,stride", [(8, 3, 2), (7, 3, 2), (14, 5, 2), (9, 5, 1), (4, 1, 2)]
)
def test_same_padding_equals_the_source_layer(size, kernel, stride):
    source = Conv2dDynamicSamePadding(3, 4, kernel, stride=stride)
    layer = QuantizedConv2d(source, LayerBits(None, 4))
    x = torch.randn(2, 3, size, size + 3)
    y = layer(x)
    quantized = kernels.fake_quant_per_tensor(x, layer.input_quantizer.range, 16)
    assert torch.equal(y, source(quantized))
    assert y.shape[-2:] == (-(-size // stride), -(-(size + 3) // stride))


def test_layer_that_bypasses_its_forward_is_refused():
    model = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(UserError, match=r"'0\.out_proj' .* cannot be quantized"):
        quantize.convert_(model, {"0.out_proj": BITS})


def test_plan_round_trips_through_plain_data():
    plan = quantize.plan(net(), section(QuantizeOverride(("4",), WeightPrecision(2.4), None)))
    assert quantize.bits_from_dict(quantize.bits_to_dict(plan)) == plan


def test_unready_and_broken_ranges_are_named():
    model = nn.Sequential(QuantizedConv2d(nn.Conv2d(3, 4, 1), BITS))
    assert quantize.uninitialized(model) == ["0.input_quantizer"]
    x = torch.randn(2, 3, 5, 5)
    x[1, 2, 3, 4] = torch.nan
    assert torch.isnan(model(x)).any()
    assert quantize.uninitialized(model) == [] and quantize.nonfinite_ranges(model) == ["0"]


@pytest.mark.parametrize("arch", ["resnet20", "efficientnet-micro", "mobilenetv2_cifar"])
def test_whole_networks_convert_and_train_one_step(arch):
    model = architectures.create_model(arch, 10)
    stem, last = architectures.stem_name(model), architectures.classifier_name(model)
    plan = quantize.plan(
        model,
        section(
            QuantizeOverride((stem,), None, None),
            QuantizeOverride((last,), WeightPrecision(2.4), None),
        ),
    )
    quantize.convert_(model, plan)
    quantized = [m for m in model.modules() if isinstance(m, QuantizedConv2d)]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(quantized) == len(convolutions) - 1
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert quantize.uninitialized(model) == []
    assert all(p.grad is not None for p in model.parameters())
