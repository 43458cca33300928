"""A quantised network's logits are the same bits on every backend, in any batch, on any threads."""

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet import models, quantize
from micronet.quantize import LayerBits

BATCHES = (1, 7, 32)


def trained(arch, size, classes, rng):
    """A network that has seen two batches: weights pruned at random, 4 bits, 5-level classifier."""
    model = models.create_model(arch, classes).to(memory_format=torch.channels_last).train()
    layers = models.layers(model)
    plan = dict.fromkeys(layers, LayerBits(4, 4))
    plan[models.stem_name(model)] = LayerBits(None, None)
    plan[models.classifier_name(model)] = LayerBits(2.4, None)
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
            model(torch.randn(8, 3, size, size, generator=rng))
    return model.eval()


@pytest.fixture(scope="module", params=[("resnet20", 32, 10), ("efficientnet-b0", 224, 1000)])
def answers(request):
    """A network, 32 images, and the logits that the fastest instruction set gives for them."""
    arch, size, classes = request.param
    rng = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    model = trained(arch, size, classes, rng)
    images = torch.randn(32, 3, size, size, generator=rng)
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all() and len(logits.unique(dim=0)) == 32
    return model, images, logits


@torch.no_grad()
@pytest.mark.parametrize("batch", BATCHES)
def test_any_batch_any_threads_any_instruction_set(answers, backend, threads, batch):
    model, images, logits = answers
    # The specification takes seconds for an image, and one image at a time takes long, too.
    count = 2 if backend == "reference" or batch == 1 else batch
    images = images[:count]
    found = torch.cat([model(images[i : i + batch]) for i in range(0, count, batch)])
    assert torch.equal(found, logits[:count])


def test_float_convolution_is_a_convolution(on_all, rng):
    x = torch.randn(3, 6, 9, 8, generator=rng).contiguous(memory_format=torch.channels_last)
    w, bias = torch.randn(8, 3, 3, 3, generator=rng), torch.randn(8, generator=rng)
    y = on_all(
        lambda: kernels.float_conv2d(x, w, bias, (2, 1), (0, 1, 1, 1), (1, 2), 2),
    )
    padded = nn.functional.pad(x.double(), [1, 1, 0, 1])
    expected = nn.functional.conv2d(padded, w.double(), bias.double(), (2, 1), 0, (1, 2), groups=2)
    assert torch.allclose(y.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [0, 5, 16])
@pytest.mark.parametrize("depth", [1, 15, 16, 17, 100])
def test_linear_by_lanes_is_a_linear_layer(on_all, rng, levels, depth):
    x, w = torch.randn(4, depth, generator=rng), torch.randn(7, depth, generator=rng)
    bias, keep = torch.randn(7, generator=rng), torch.rand(7, depth, generator=rng) > 0.5
    mask = kernels.pack_bits(keep) if levels else None
    y = on_all(lambda: kernels.linear_by_lanes(x, w, bias, levels, mask))
    w_hat = kernels.fake_quant_per_channel(w, levels, mask) if levels else w
    expected = nn.functional.linear(x.double(), w_hat.double(), bias.double())
    assert torch.allclose(y.double(), expected, rtol=0, atol=1e-4)


def test_a_lane_is_summed_in_order():
    """2^24 + 1 is no float32: the one vanishes only where it meets the large term alone."""
    x = torch.ones(1, 32)
    w = torch.zeros(1, 32)
    w[0, 0], w[0, 16], w[0, 1] = 2.0**24, 1.0, 1.0
    assert kernels.linear_by_lanes(x, w, None).item() == 2.0**24
    w[0, 17] = 1.0
    assert kernels.linear_by_lanes(x, w, None).item() == 2.0**24 + 2


def test_rejects(backend):
    x, w = torch.ones(1, 4), torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"shapes \[1, 4\] and \[3, 5\]"):
        kernels.linear_by_lanes(x, w, None)
    with pytest.raises(TypeError, match=r"w is torch\.bfloat16"):
        kernels.linear_by_lanes(x, torch.ones(3, 4).bfloat16(), None)
    with pytest.raises(ValueError, match="bias has shape"):
        kernels.linear_by_lanes(x, torch.ones(3, 4), torch.ones(2))
    images = torch.ones(1, 4, 3, 3)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        kernels.float_conv2d(images, torch.ones(2, 4, 5, 5), None, (1, 1), (0, 0, 0, 0), (1, 1), 1)
