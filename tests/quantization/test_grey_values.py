"""Grey values: which every normalization gives back, and what has none and is refused."""

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms import v2

from grey_images import HALVES, bits_of, normalized
from micronet.data.batches import MemoryImages
from micronet.data.preprocessing import CIFAR_STATISTICS, IMAGENET_STATISTICS, Preprocessing
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantizers.images import ImageQuantizer
from micronet.utils.errors import UserError

EPSILON = 2.0**-24


def timm_statistics():
    configs = (timm.get_pretrained_cfg(name) for name in timm.list_models(pretrained=True))
    pairs = {(tuple(c.mean), tuple(c.std)) for c in configs if len(c.mean) == 3}
    return sorted(pairs)


@pytest.mark.parametrize(
    "statistics", [CIFAR_STATISTICS, IMAGENET_STATISTICS, HALVES, *timm_statistics()]
)
def test_all_256_grey_values_come_back_under_every_normalization_there_is(statistics):
    """As our data normalize them, and as torchvision does.

    Each rounds four or five times, which puts a grey value off by less than 5 * 2^-24 of
    255 + mean, far from one half.
    """
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    mean, std = statistics
    preprocessing = Preprocessing(mean=mean, deviation=std)
    images = MemoryImages(grey, torch.zeros(1), 16, flip=False, preprocessing=preprocessing)
    (ours, _), *_ = images.batches([torch.tensor([0])], None)
    planes = grey.permute(0, 3, 1, 2)
    theirs = v2.Normalize(mean, std)(v2.functional.to_dtype(planes, torch.float32, scale=True))
    quantizer = ImageQuantizer(mean, std)
    for found in (ours, theirs):
        for training in (True, False):
            read = quantizer.train(training).codes(found, 0)
            assert torch.equal(read.codes.view(16, 16, 3), grey[0])
            values = quantizer(found)
            assert torch.equal(torch.round(values * quantizer.scale), planes.float())
        assert torch.equal(quantizer._rounded(found).le(quantizer.range[1]), planes >= 0)


def test_what_lies_between_two_grey_values_goes_to_the_nearest_and_what_is_beyond_to_the_ends():
    quantizer = ImageQuantizer(*IMAGENET_STATISTICS)
    grey = torch.tensor([-40.0, -0.6, -0.4, 0.4, 0.6, 99.3, 200.7, 254.8, 255.4, 255.6, 300.0])
    x = normalized(grey.expand(1, 3, 1, -1)).requires_grad_()
    values = quantizer(x)
    whole = torch.round(values * quantizer.scale)
    assert whole[0, 1, 0].tolist() == [0, 0, 0, 0, 1, 99, 201, 255, 255, 255, 255]
    values.sum().backward()
    inside = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0.0])
    factors = quantizer.factors.view(3, 1, 1)
    assert torch.allclose(x.grad * factors, inside.expand(1, 3, 1, -1), rtol=4 * EPSILON, atol=0)
    low, high = quantizer.ends()
    assert low == float(normalized(torch.zeros(3, 1, 1)).min())
    assert high == float(normalized(torch.full((3, 1, 1), 255.0)).max())


def test_other_types_are_read_as_they_are_in_float32(rng):
    grey = torch.randint(0, 256, (2, 3, 4, 4), generator=rng)
    x = normalized(grey)
    quantizer = ImageQuantizer(*IMAGENET_STATISTICS)
    for kind in (torch.float64, torch.float32, torch.float16):
        # float16 is off by at most 2^-11 of 2.64 deviations of 58 grey values: less than 0.1.
        found = torch.round(quantizer(x.to(kind)) * quantizer.scale)
        assert torch.equal(found, grey.float()), kind


@pytest.mark.parametrize(
    "statistics,problem",
    [
        (((0.5,), (0.5, 0.5)), "1 means and 2 deviations"),
        (((0.5,), (0.0,)), "above 0"),
        (((float("nan"),), (1.0,)), "finite"),
        (((1e7,), (0.5,)), "does not tell 256 grey values apart"),
        (((0.5,), (1e-39,)), "does not tell 256 grey values apart"),
        ((("a",), (1.0,)), "could not convert"),
    ],
)
def test_normalizations_that_no_image_has_are_refused(statistics, problem):
    with pytest.raises(ValueError, match=problem):
        bits_of(statistics)


@pytest.mark.parametrize(
    "options,problem",
    [
        (dict(activation_bits=4), "8 bits"),
        (dict(weight_bits=None), "quantized weights"),
        (dict(image_std=None), "belong together"),
        (dict(activation_step="range"), "are of an activation_step 'image'"),
        (dict(weight_step="image"), "weight_step is 'image'"),
    ],
)
def test_precisions_that_no_layer_of_an_image_has_are_refused(options, problem):
    mean, std = IMAGENET_STATISTICS
    whole = dict(
        weight_bits=8, activation_bits=8, activation_step="image", image_mean=mean, image_std=std
    )
    with pytest.raises(ValueError, match=problem):
        LayerBits(**(whole | options))


def test_layers_that_read_no_image_are_refused():
    with pytest.raises(UserError, match=r"layer '0' \(Linear\) is no convolution of images"):
        quantize.convert_(nn.Sequential(nn.Linear(3, 4)), {"0": bits_of()})
    with pytest.raises(UserError, match="how the images of layer '0' are normalized is not known"):
        planned = LayerBits(8, 8, activation_step="image")
        quantize.convert_(nn.Sequential(nn.Conv2d(3, 4, 3)), {"0": planned})
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    model[1].weight = model[0].weight
    with pytest.raises(UserError, match="hold one weight"):
        quantize.convert_(model, {"0": bits_of(), "1": LayerBits(8, 8)})
