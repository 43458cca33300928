"""A quantized network's logits are the same bits on every backend, in any batch, on any threads."""

from itertools import cycle, product

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from cpu_backends import CPU_BACKENDS
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits

# Images, and how many of them a batch has: one, some with a rest, all.
IMAGES, BATCHES = 16, (1, 7, 16)
# Of images that take long, so few that 7 and 16 are one batch. Two tell a batch from its images.
FEW = 2
# The specification takes seconds for an image: it gets two of them, for which 7 and 16 are one, and
# one of those that take long.
PAIRS = [pair for pair in product(CPU_BACKENDS, BATCHES) if pair != ("reference", 16)]
# One thread and two in turn: every backend and every batch meets both.
GRID = [(*pair, threads) for pair, threads in zip(PAIRS, cycle([1, 2]), strict=False)]


def of_codes(model):
    """4 bits, with a float stem and a classifier of five levels, as in 2019."""
    plan = dict.fromkeys(architectures.layers(model), LayerBits(4, 4))
    plan[architectures.stem_name(model)] = LayerBits(None, None)
    plan[architectures.classifier_name(model)] = LayerBits(2.4, None)
    return plan


LEARNED = LayerBits(4, 4, weight_step="learned", activation_step="learned")


def of_learned_steps(model):
    """Learned steps, a stem of 8 bits, and some layers of one operand or of mixed kinds."""
    plan = dict.fromkeys(architectures.layers(model), LEARNED)
    plan[architectures.stem_name(model)] = LayerBits(8, 8)
    others = [
        LayerBits(4, None),
        LayerBits(None, 4),
        LayerBits(4, 8, weight_step="learned"),
        LayerBits(4, None, weight_step="learned"),
    ]
    plan.update(zip(list(plan)[1:-1:4], others, strict=False))
    plan[architectures.classifier_name(model)] = LayerBits(
        4, 8, weight_step="learned", activation_step="learned"
    )
    return plan


def trained(arch, size, classes, rng, planned, count=8):
    """A network that has seen two batches of some images, its weights pruned at random."""
    model = architectures.create_model(arch, classes).to(memory_format=torch.channels_last).train()
    layers = architectures.layers(model)
    plan = planned(model)
    masks = {
        name: kernels.pack_bits(torch.rand(layer.weight.shape, generator=rng) > 0.6)
        for name, layer in list(layers.items())[1:]
    }
    quantize.convert_(model, plan, masks)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # else nothing of the images is left after two batches
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(count, 3, size, size, generator=rng))
    return model.eval()


NETWORKS = {
    "resnet20": ("resnet20", 32, 10, of_codes),
    "resnet20 of learned steps": ("resnet20", 32, 10, of_learned_steps),
    "mobilenetv2_cifar": ("mobilenetv2_cifar", 32, 10, of_codes),
    "efficientnet-b0": ("efficientnet-b0", 48, 1000, of_codes),
    "efficientnet-b0 of large images": ("efficientnet-b0", 144, 1000, of_codes),
    "efficientnet-micro of learned steps": ("efficientnet-micro", 32, 10, of_learned_steps),
}


def slow_where_large(name):
    """The parameter of a network; ``make test`` leaves large images out."""
    return pytest.param(name, marks=pytest.mark.slow) if NETWORKS[name][1] > 100 else name


@pytest.fixture(scope="module", params=map(slow_where_large, NETWORKS))
def answers(request):
    """A network, images, and the logits that the fastest instruction set gives for them."""
    arch, size, classes, planned = NETWORKS[request.param]
    rng = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    count = FEW if size > 100 else IMAGES
    model = trained(arch, size, classes, rng, planned, min(count, 8))
    images = torch.randn(count, 3, size, size, generator=rng)
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all() and len(logits.unique(dim=0)) == count
    return model, images, logits


@torch.no_grad()
@pytest.mark.parametrize("backend,batch,threads", GRID, indirect=["backend", "threads"])
def test_any_batch_any_threads_any_instruction_set(answers, backend, batch, threads):
    model, images, logits = answers
    if backend == "reference":
        count = 1 if batch == 1 or len(images) == FEW else 2
    else:
        count = 2 if batch == 1 else len(images)
    images = images[:count]
    found = torch.cat([model(images[i : i + batch]) for i in range(0, count, batch)])
    assert torch.equal(found, logits[:count])


def integers_and_scales(rng, levels, weight_levels, shape, weight_shape):
    """Whole numbers of so many levels, zero among them, and the scales that they are over."""
    i = torch.randint(-(levels // 3), levels - levels // 3, shape, generator=rng)
    j = torch.randint(-weight_levels // 2, weight_levels // 2, weight_shape, generator=rng)
    scale = torch.rand((), generator=rng) + 0.5
    return i, scale, j, torch.rand(weight_shape[0], generator=rng) + 0.5


# Levels of input and weights, the latter few or many enough that float32 does not hold the sums.
@pytest.mark.parametrize(
    "levels,weight_levels,channels", [(16, 16, 8), (256, 256, 8), (256, 256, 64)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_integers_are_summed_exactly(rng, levels, weight_levels, channels, biased):
    shape, weight_shape = (2, channels, 9, 7), (6, channels // 2, 3, 3)
    i, x_scale, j, w_scale = integers_and_scales(rng, levels, weight_levels, shape, weight_shape)
    bias = torch.randn(6, generator=rng) if biased else None
    call = kernels.ConvCall(levels, weight_levels, (2, 1), (0, 1, 2, 1), (1, 1), 2)
    x, w = i / x_scale, j / w_scale[:, None, None, None]
    y = kernels.conv2d_of_integers(x, x_scale, w, w_scale, bias, call).plain()
    padded = nn.functional.pad(i.double(), [1, 1, 0, 2])
    sums = nn.functional.conv2d(padded, j.double(), None, (2, 1), groups=2)
    assert sums.abs().max() > 0
    ratio = (torch.ones(6) / (x_scale * w_scale))[:, None, None].double()
    exact = sums.float().double() * ratio
    # One fused multiply-add: the double product of two floats is exact, its sum nearly.
    expected = exact if bias is None else exact + bias.double()[:, None, None]
    assert torch.equal(y, expected.float())


def test_gradient_of_integers_is_that_of_the_values(rng):
    i, x_scale, j, w_scale = integers_and_scales(rng, 16, 16, (2, 4, 5, 5), (3, 4, 3, 3))
    call = kernels.ConvCall(16, 16, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    x, w = (i / x_scale).requires_grad_(), (j / w_scale[:, None, None, None]).requires_grad_()
    bias = torch.randn(3, generator=rng).requires_grad_()
    grad = torch.randn(2, 3, 5, 5, generator=rng)
    found = kernels.conv2d_of_integers(x, x_scale, w, w_scale, bias, call).plain()
    ours = torch.autograd.grad(found, (x, w, bias), grad)
    theirs = torch.autograd.grad(nn.functional.conv2d(x, w, bias, 1, 1), (x, w, bias), grad)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_sums_beyond_32_bits_are_refused(rng):
    x, w = torch.ones(1, 40_000, 1, 1), torch.ones(1, 40_000, 1, 1)
    call = kernels.ConvCall(256, 256, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        kernels.conv2d_of_integers(x, torch.ones(()), w, torch.ones(1), None, call)


def test_a_layer_of_wider_sums_is_evaluated_in_order(on_all, rng):
    layer = quantize.QuantizedLinear(nn.Linear(40_000, 3), LayerBits(8, 8))
    x = torch.randn(2, 40_000, generator=rng)
    layer.train()(x)
    y = on_all(lambda: layer.eval()(x).detach())
    expected = nn.functional.linear(
        layer.input_quantizer(x).double(), layer.quantized_weight().double(), layer.bias.double()
    )
    # Each of 2,500 roundings of a lane, and of its value, is half a unit of a sum below 2^6.
    assert (y - expected).abs().max() < 2600 * 2.0**-19


@pytest.mark.parametrize("planned", [of_codes, of_learned_steps])
def test_evaluated_networks_have_gradients(rng, planned):
    """Those of the same values in torch's own order, in every layer, the stem's too."""
    model = trained("resnet20", 32, 10, rng, planned)
    images = torch.randn(4, 3, 32, 32, generator=rng).requires_grad_()
    with torch.no_grad():
        expected = model(images)
    found = model(images)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    assert float(images.grad.abs().max()) > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def in_lanes(x):
    """Means over positions by the stated order: lane l adds terms l, l + 16, ..., then lanes."""
    terms = x.flatten(2).unbind(-1)
    lanes = [torch.zeros(x.shape[:2]) for _ in range(16)]
    for number, term in enumerate(terms):
        lanes[number % 16] += term
    for half in (8, 4, 2, 1):
        lanes = [lanes[lane] + lanes[lane + half] for lane in range(half)]
    return lanes[0][:, :, None, None] / len(terms)


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 9)])
def test_means_are_summed_in_the_stated_order(on_all, rng, size):
    """Of numbers as of a block that is multiplied by a gate; of no device's own order."""
    x = torch.randn(3, 5, *size, generator=rng)
    assert torch.equal(on_all(lambda: kernels.position_means(x)), in_lanes(x))
    gate = torch.rand(3, 5, 1, 1, generator=rng)
    found = kernels.position_means(kernels.LazyTensor.wait(x) * gate)
    assert torch.equal(found, in_lanes(x * gate))


def test_a_network_averages_in_the_stated_order_in_evaluation(rng):
    model = trained("resnet20", 32, 10, rng, of_codes)
    x = torch.randn(2, 64, 8, 8, generator=rng, requires_grad=True)
    y = model.avgpool(x)
    assert torch.equal(y, in_lanes(x.detach())) and isinstance(model.avgpool, nn.AdaptiveAvgPool2d)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(found, torch.full_like(x, 1 / 64))
    model.train()
    assert torch.equal(model.avgpool(x), nn.functional.adaptive_avg_pool2d(x, 1))
    halves = model.eval().avgpool(x.double())
    assert halves.dtype == torch.float64 and halves.shape == (2, 64, 1, 1)


def test_float_convolution_is_a_convolution(on_all, rng):
    x = torch.randn(3, 6, 9, 8, generator=rng).contiguous(memory_format=torch.channels_last)
    w, bias = torch.randn(8, 3, 3, 3, generator=rng), torch.randn(8, generator=rng)
    y = on_all(
        lambda: kernels.conv2d_deterministic(x, w, bias, (2, 1), (0, 1, 1, 1), (1, 2), 2),
    )
    padded = nn.functional.pad(x.double(), [1, 1, 0, 1])
    expected = nn.functional.conv2d(padded, w.double(), bias.double(), (2, 1), 0, (1, 2), groups=2)
    assert torch.allclose(y.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [0, 5, 16])
@pytest.mark.parametrize("depth", [1, 15, 16, 17, 100])
def test_linear_deterministic_is_a_linear_layer(on_all, rng, levels, depth):
    x, w = torch.randn(4, depth, generator=rng), torch.randn(7, depth, generator=rng)
    bias, keep = torch.randn(7, generator=rng), torch.rand(7, depth, generator=rng) > 0.5
    mask = kernels.pack_bits(keep) if levels else None
    y = on_all(lambda: kernels.linear_deterministic(x, w, bias, levels, mask))
    w_hat = kernels.fake_quant_per_channel(w, levels, mask) if levels else w
    expected = nn.functional.linear(x.double(), w_hat.double(), bias.double())
    assert torch.allclose(y.double(), expected, rtol=0, atol=1e-4)


def test_a_lane_is_summed_in_order():
    """2^24 + 1 is no float32: the one vanishes only where it meets the large term alone."""
    x = torch.ones(1, 32)
    w = torch.zeros(1, 32)
    w[0, 0], w[0, 16], w[0, 1] = 2.0**24, 1.0, 1.0
    assert kernels.linear_deterministic(x, w, None).item() == 2.0**24
    w[0, 17] = 1.0
    assert kernels.linear_deterministic(x, w, None).item() == 2.0**24 + 2


def test_rejects(backend):
    x, w = torch.ones(1, 4), torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"shapes \[1, 4\] and \[3, 5\]"):
        kernels.linear_deterministic(x, w, None)
    with pytest.raises(TypeError, match=r"w is torch\.bfloat16"):
        kernels.linear_deterministic(x, torch.ones(3, 4).bfloat16(), None)
    with pytest.raises(ValueError, match="bias has shape"):
        kernels.linear_deterministic(x, torch.ones(3, 4), torch.ones(2))
    images = torch.ones(1, 4, 3, 3)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        kernels.conv2d_deterministic(
            images, torch.ones(2, 4, 5, 5), None, (1, 1), (0, 0, 0, 0), (1, 1), 1
        )
