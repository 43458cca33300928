"""A first layer that reads grey values: its integers, its border, its gradients."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet_kernels as kernels
from grey_images import HALVES, bits_of, normalized
from micronet.data.preprocessing import CIFAR_STATISTICS, IMAGENET_STATISTICS
from micronet.quantization import quantize
from micronet.quantization.images.layer import ImageConv2d
from micronet.quantization.precision import LayerBits

EPSILON = 2.0**-24


def converted(layer, bits):
    model = nn.Sequential(layer)
    quantize.convert_(model, {"0": bits})
    assert isinstance(model[0], ImageConv2d)
    return model[0]


def integers_of(layer):
    scale = layer.weight_scale()
    return torch.round(layer.quantized_weight().detach().flatten(1) * scale[:, None]).view_as(
        layer.weight
    )


def defined(layer, grey, padding):
    """The sums and the values of a layer by its definition, in whole numbers and float64."""
    quantizer, scale = layer.input_quantizer, layer.weight_scale()
    mean = quantizer.mean.flatten()
    top, left, bottom, right = padding
    n, c, height, width = grey.shape
    bordered = torch.round(mean).view(1, -1, 1, 1).double()
    bordered = bordered.expand(n, c, height + top + bottom, width + left + right).clone()
    bordered[:, :, top : top + height, left : left + width] = grey
    whole = integers_of(layer).double()
    shape = layer.stride, 0, layer.dilation, layer.groups
    sums = F.conv2d(bordered, whole, None, *shape)
    step = (torch.ones(1) / (quantizer.scale * scale)).double()
    constants = mean.double().view(1, -1, 1, 1).expand(1, c, *layer.kernel_size)
    means = F.conv2d(constants, whole, None, 1, 0, 1, layer.groups).flatten()
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    shift = (bias - means * step).float()
    return sums, (sums * step.view(-1, 1, 1) + shift.double().view(-1, 1, 1)).float()


# The layer -----------------------------------------------------------------------------------

LAYERS = {
    "plain": (dict(kernel_size=3, padding=1, bias=False), (1, 1, 1, 1)),
    "strided with a bias": (dict(kernel_size=7, stride=2, padding=3), (3, 3, 3, 3)),
    "of unequal sides": (dict(kernel_size=(3, 5), padding=(0, 2), dilation=(2, 1)), (0, 2, 0, 2)),
    "same": (dict(kernel_size=4, padding="same"), (1, 1, 2, 2)),
    "without a border": (dict(kernel_size=1, bias=False), (0, 0, 0, 0)),
    "grouped": (dict(kernel_size=3, padding=1, groups=3), (1, 1, 1, 1)),
}
WEIGHTS = {
    "8 bits": {},
    "4 bits": dict(weight_bits=4),
    "symmetric": dict(symmetric=True),
    "learned": dict(weight_bits=4, weight_step="learned"),
    "five levels": dict(weight_bits=2.4),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("statistics", [CIFAR_STATISTICS, IMAGENET_STATISTICS, HALVES])
def test_training_and_evaluation_compute_the_definition_to_the_bit(backend, rng, kind, statistics):
    options, padding = LAYERS["strided with a bias"]
    layer = converted(nn.Conv2d(3, 8, **options), bits_of(statistics, **WEIGHTS[kind]))
    grey = torch.randint(0, 256, (2, 3, 11, 9), generator=rng)
    _, expected = defined(layer, grey, padding)
    x = normalized(grey, statistics)
    assert torch.equal(layer.train()(x).detach(), expected)
    assert torch.equal(layer.eval()(x).detach(), expected)
    with torch.no_grad():
        assert torch.equal(layer(x[1:]), expected[1:])
        # In one image, without a batch.
        assert torch.equal(layer(x[0]), expected[0])
        assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_every_border_and_every_group_is_that_of_the_definition(rng, name):
    options, padding = LAYERS[name]
    layer = converted(nn.Conv2d(3, 6, **options), bits_of())
    grey = torch.randint(0, 256, (2, 3, 13, 12), generator=rng)
    sums, expected = defined(layer, grey, padding)
    found = layer.train()(normalized(grey))
    assert torch.equal(found.block().sums.double(), sums)
    assert torch.equal(found.detach(), expected)
    assert torch.equal(layer.eval()(normalized(grey)).detach(), expected)


def test_the_values_are_those_of_the_float_layer_but_for_what_is_rounded(rng):
    """Each weight is off by at most half a step of its row; so is a border of half a grey value."""
    layer = nn.Conv2d(3, 8, 3, padding=1)
    expected_of = copy.deepcopy(layer).double()
    ours = converted(layer, bits_of())
    grey = torch.randint(0, 256, (2, 3, 9, 9), generator=rng)
    x = normalized(grey)
    expected, found = expected_of(x.double()), ours(x).detach().double()
    step = (1 / ours.weight_scale().detach().double()).view(-1, 1, 1)
    largest = F.conv2d(x.abs().double(), torch.ones(1, 3, 3, 3, dtype=torch.float64), padding=1)
    border = (0.5 / 0.225 / 255) * ours.weight.detach().abs().flatten(1).sum(1).view(-1, 1, 1)
    assert ((found - expected).abs() <= 0.51 * step * (largest + 0.1) + 1.01 * border).all()
    assert (found - expected).abs().max() > 0


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_a_border_of_the_images_own_values_is_one_of_its_grey_values(rng, mode):
    layer = converted(nn.Conv2d(3, 6, 3, padding=1, padding_mode=mode), bits_of())
    grey = torch.randint(0, 256, (2, 3, 8, 8), generator=rng)
    expected = defined(layer, F.pad(grey.double(), [1, 1, 1, 1], mode=mode), (0, 0, 0, 0))[1]
    for training in (True, False):
        assert torch.equal(layer.train(training)(normalized(grey)).detach(), expected)


def test_an_image_of_one_channel_has_grey_values_too(rng):
    statistics = (0.1307,), (0.3081,)
    layer = converted(nn.Conv2d(1, 4, 5, padding=2), bits_of(statistics, 4))
    grey = torch.randint(0, 256, (3, 1, 8, 8), generator=rng)
    expected = defined(layer, grey, (2, 2, 2, 2))[1]
    for training in (True, False):
        found = layer.train(training)(normalized(grey, statistics)).detach()
        assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="to have 1 channels, but got 3"):
        layer(torch.zeros(1, 3, 8, 8))


def test_equal_deviations_leave_the_grid_of_the_weights_as_it_is():
    torch.manual_seed(0)
    plain, ours = (nn.Conv2d(3, 8, 3) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    layer = converted(ours, bits_of(HALVES))
    other = nn.Sequential(plain)
    quantize.convert_(other, {"0": LayerBits(8, 8)})
    assert torch.equal(layer.quantized_weight(), other[0].quantized_weight())
    assert torch.equal(layer.weight_scale(), other[0].weight_scale())


def straight_through(layer, x, weight, bias, step):
    """The layer in float64 over what it rounds to, whose gradients go past the rounding."""
    quantizer = layer.input_quantizer
    d, m = quantizer.deviation.double(), quantizer.mean.double()
    grey = F.pad(x, [1, 1, 1, 1]) * d + m
    grey = grey + (grey.round().clamp(0, 255) - grey).detach()
    largest = d.amax()
    scaled = weight * (largest / d).view(1, -1, 1, 1)
    rounded = layer.quantized_weight().detach().double()
    if step is None:
        scaled = scaled + (rounded - scaled).detach()
    else:
        # x / s inside of the levels, the nearest of them outside; times s.
        ratio = scaled / step.view(-1, 1, 1, 1)
        low, high = layer.weight_zero_point[0], layer.weight_zero_point[0] + layer.weight_levels - 1
        held = ratio.clamp(low, high)
        whole = (rounded / step.detach().view(-1, 1, 1, 1)).round()
        scaled = (held + (whole - held).detach()) * step.view(-1, 1, 1, 1)
    return F.conv2d((grey - m) / largest, scaled, bias)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_gradients_are_those_that_go_past_the_rounding(rng, kind):
    layer = converted(nn.Conv2d(3, 8, 3, padding=1), bits_of(**WEIGHTS[kind])).train()
    grey = torch.randint(0, 256, (4, 3, 10, 10), generator=rng)
    x = normalized(grey).requires_grad_()
    grad = torch.randn(4, 8, 10, 10, generator=rng)
    layer(x).backward(grad)
    wide = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    step = layer.weight_step
    step = None if step is None else step.detach().double().requires_grad_()
    straight_through(layer, *wide, step).backward(grad.double())
    own = x, layer.weight, layer.bias
    pairs = {name: (own[i], wide[i]) for i, name in enumerate(("x", "weight", "bias"))}
    if step is not None:
        step.grad *= layer._step_gradient_scale()
        pairs["step"] = layer.weight_step, step
    # Sums of 400 products of grey values, and for a step of 27 times as many; torch's own float32
    # is off by as much: eps times the number of terms, times their sizes.
    for name, (found, expected) in pairs.items():
        error = (found.grad.double() - expected.grad).abs().max()
        size = grad.abs().sum(dtype=torch.float64) * 255 / float(layer.input_quantizer.largest)
        assert error <= EPSILON * 32 * float(size), name
        assert expected.grad.abs().max() > 0


def block(bits, norm=True):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(8), nn.ReLU()] if norm else []
    model = nn.Sequential(*layers, nn.Conv2d(8, 4, 3))
    quantize.convert_(model, {"0": bits, str(len(model) - 1): LayerBits(4, 4)})
    return model


def test_a_normalization_behind_it_sees_the_values_and_is_folded_in_evaluation(rng):
    model = block(bits_of()).train()
    x = normalized(torch.randint(0, 256, (8, 3, 12, 12), generator=rng))
    other = copy.deepcopy(model)
    model(x)
    norm = other[1]
    values = other[0](x).detach().clone()
    assert type(values) is torch.Tensor
    norm(values)
    mean, variance = (getattr(model[1], f"running_{key}") for key in ("mean", "var"))
    size = values.abs().amax()
    assert (mean - norm.running_mean).abs().max() <= 16 * EPSILON * size
    assert torch.allclose(variance, norm.running_var, rtol=1e3 * EPSILON, atol=0)
    # Evaluation by the stated order: one fused multiply-add over the integers.
    model.eval()
    quantizer = model[0].input_quantizer
    grey = torch.round(x * quantizer.deviation + quantizer.mean)
    sums, _ = defined(model[0], grey, (1, 1, 1, 1))
    with torch.no_grad():
        hidden = model[:2](x)
    folded = hidden.block()
    exact = sums * folded.scale.double().view(-1, 1, 1) + folded.shift.double().view(-1, 1, 1)
    assert torch.equal(hidden, exact.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_a_grey_value(rng, value):
    layer = converted(nn.Conv2d(3, 4, 3, padding=1), bits_of())
    x = normalized(torch.randint(0, 256, (2, 3, 8, 8), generator=rng))
    x[1, 2, 3, 3] = value
    found = layer.eval()(x).detach()
    assert found[0].isfinite().all() and not found[1, :, 3, 3].isfinite().any()
    assert torch.equal(found[0], layer(x[:1]).detach()[0])
    assert layer.train()(x).detach().isnan().all()


def test_sums_beyond_32_bits_are_computed_in_float(rng):
    layer = converted(nn.Conv2d(3, 2, 129, padding=0), bits_of())
    assert not layer.is_exact
    grey = torch.randint(0, 256, (1, 3, 129, 130), generator=rng)
    sums, expected = defined(layer, grey, (0, 0, 0, 0))
    bound = (sums.abs().max() + 255 * 255 * 3) / 1e3
    for training in (True, False):
        found = layer.train(training)(normalized(grey)).detach()
        scale = 1 / (layer.input_quantizer.scale * layer.weight_scale()).view(-1, 1, 1)
        # The largest partial sum, and as many roundings.
        limit = 255 * integers_of(layer).abs().flatten(1).sum(1).view(-1, 1, 1) * scale
        assert ((found - expected).abs() <= limit * EPSILON * 3 * 129**2).all(), bound


def test_pruned_weights_stay_zero_in_the_integers(rng):
    layer = nn.Conv2d(3, 8, 3, padding=1)
    keep = torch.rand(layer.weight.shape, generator=rng) > 0.6
    with torch.no_grad():
        layer.weight.mul_(keep)
    model = nn.Sequential(layer)
    quantize.convert_(model, {"0": bits_of()}, {"0": kernels.pack_bits(keep)})
    assert not integers_of(model[0])[~keep].any()
    model(normalized(torch.randint(0, 256, (2, 3, 8, 8), generator=rng))).sum().backward()
    assert not model[0].weight.grad[~keep].any() and model[0].weight.grad[keep].any()


def test_a_copy_and_what_comes_out_of_a_file_compute_the_same(rng):
    layer = converted(nn.Conv2d(3, 8, 3, padding=1), bits_of()).eval()
    x = normalized(torch.randint(0, 256, (2, 3, 8, 8), generator=rng))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x).detach(), layer(x).detach())
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_under_tracing_it_is_made_of_ordinary_operators(rng):
    model = block(bits_of(), norm=False)
    x = normalized(torch.randint(0, 256, (4, 3, 12, 12), generator=rng))
    model.train()(x)
    model.eval()
    expected = model(x).detach()
    exported = torch.export.export(model, (x,)).module()
    symbolic = torch.fx.symbolic_trace(model)
    step = float(1 / model[1].input_quantizer.scale)
    for traced in (exported, symbolic):
        # A sum of floats may round to the neighbor of a code in the layer behind.
        found = traced(x).detach()
        weights = model[1].quantized_weight().detach().abs().flatten(1).sum(1).amax()
        assert (found - expected).abs().max() <= step * weights * 1.01
        assert (found - expected).abs().mean() <= step * weights * 0.02
