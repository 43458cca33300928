"""Networks that read the grey values of images: packed, read by both readers, run by the engine."""

import numpy as np
import pytest
import torch
from torch import nn

import grey_images
import micronet
import plain_reader
from micronet.artifact import accounting, inspection, reader
from micronet.artifact import engine as engines
from micronet.artifact.engine import Engine
from micronet.artifact.format.nodes import Pixels
from micronet.data.preprocessing import CIFAR_STATISTICS, IMAGENET_STATISTICS
from micronet.models import architectures
from micronet.scoring.count import score_subject
from micronet.utils.errors import UserError
from packed_networks import (
    FOUR,
    assert_same,
    batches_for,
    changed,
    compressed,
    content_of,
    grey_network,
    packed,
    read,
)

HALVES = grey_images.HALVES


def photos(rng, shape, count=3):
    """Bytes, as an image has them."""
    return torch.randint(256, (count, *shape), generator=rng, dtype=torch.uint8)


def moments_of(file):
    return file.document.about.mean, file.document.about.std


def check(model, shape, rng, sets, statistics=IMAGENET_STATISTICS):
    """The file gives the network's logits, of floats and of bytes, and stores what is scored."""
    file = read(content_of(packed(model, shape)))
    again, pixels = reader.network_of(file), photos(rng, shape)
    images = grey_images.normalized(pixels, statistics)
    batches = [*batches_for(rng, shape), images, images[:1]]
    assert_same(model, again, *batches)
    own = micronet.score(model, shape[1], shape[0])
    scored, account = score_subject(accounting.subject(file)), accounting.account(file)
    assert accounting.differences(file, scored) == []
    assert scored.storage_bits == account.payload == own.storage_bits + account.factors
    assert scored.operations == own.operations
    with torch.no_grad():
        logits = [model(x.clone()).numpy() for x in batches]
    last = pixels.permute(0, 2, 3, 1).contiguous()
    for threads in (1, 2):
        engine = Engine.from_bytes(content_of(file), threads=threads)
        for name in sets:
            engines.choose_instruction_set(name)
            for x, wanted in zip(batches, logits, strict=True):
                assert_same_bits(engine(x.numpy()), wanted)
            for layout in (pixels, last):
                assert_same_bits(engine.run_pixels(layout.numpy()), logits[-2])
                assert_same_bits(engine.run_pixels(layout[:1].numpy()), logits[-1])
    return file


def assert_same_bits(found, wanted):
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size", "statistics"),
    [
        ("resnet20", 16, CIFAR_STATISTICS),
        ("mobilenetv2_cifar", 16, CIFAR_STATISTICS),
        ("efficientnet-micro", 32, IMAGENET_STATISTICS),
        ("efficientnet-micro", 21, IMAGENET_STATISTICS),
    ],
)
def test_networks(arch, size, statistics, rng, every_instruction_set):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = grey_network(arch, size, statistics)
    file = check(model, (3, size, size), rng, every_instruction_set, statistics)
    assert isinstance(file.document.nodes[1], Pixels)


@pytest.mark.slow
def test_the_recipe_that_reads_grey_values(rng, every_instruction_set):
    """Every precision of the recipe, in a smaller network of its family."""
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = micronet.create_model("efficientnet-micro", num_classes=10)
    recipe = micronet.Recipe.load("efficientnet_b1_longer_qat")
    mean, std = IMAGENET_STATISTICS
    compression = micronet.compress(model, recipe, mean=mean, std=std)
    compression.begin_epoch(0, torch.optim.SGD(compression.parameter_groups(), lr=0.1))
    with torch.no_grad():
        for _ in range(2):
            model.train()(grey_images.normalized(photos(rng, (3, 32, 32), 4)))
    file = check(model.eval(), (3, 32, 32), rng, every_instruction_set)
    assert {layer.sums for layer in file.document.layers.values()} == {"integer"}


LEARNED = dict(weight_bits=4, weight_step="learned")
STEMS = {
    "plain": (dict(kernel_size=3, padding=1, bias=False), {}),
    "strided, with a bias": (dict(kernel_size=7, stride=2, padding=3), LEARNED),
    "unequal sides": (dict(kernel_size=(3, 5), padding=(0, 2), dilation=(2, 1)), {}),
    "same": (dict(kernel_size=4, padding="same"), dict(weight_bits=2.4)),
    "no border": (dict(kernel_size=1, bias=False), LEARNED),
    "grouped": (dict(kernel_size=3, padding=1, groups=3), dict(symmetric=True)),
}


@pytest.mark.parametrize("kind", STEMS)
def test_every_border_and_every_grid_of_weights(kind, rng, every_instruction_set):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    shape, options = STEMS[kind]
    stem = nn.Conv2d(3, 12, **shape)
    norm = [nn.BatchNorm2d(12)] if stem.bias is None else []
    model = nn.Sequential(stem, *norm, nn.SiLU(), nn.Conv2d(12, 5, 3))
    bits = {"0": grey_images.bits_of(HALVES, **options), str(len(model) - 1): FOUR}
    file = check(
        compressed(model, (3, 13, 13), bits), (3, 13, 13), rng, every_instruction_set, HALVES
    )
    image = torch.randn(3, 13, 13, generator=rng)
    with torch.no_grad():
        wanted = model(image[None])[0].numpy()
    assert_same_bits(plain_reader.run(content_of(file), image.numpy()), wanted)


def test_an_image_of_one_channel_that_another_layer_reads_in_float(rng, every_instruction_set):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.grey, self.plain = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)

        def forward(self, x):
            return self.grey(x) + self.plain(x)

    statistics = (0.1307,), (0.3081,)
    model = compressed(
        Two(), (1, 9, 9), {"grey": grey_images.bits_of(statistics, 4), "plain": FOUR}
    )
    check(model, (1, 9, 9), rng, every_instruction_set, statistics)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    bits = {"0": grey_images.bits_of(), "2": FOUR}
    return packed(compressed(model, (3, 6, 6), bits, sparsity=0), (3, 6, 6))


def test_what_is_no_grey_value(small, rng):
    """Between two the nearest, beyond the ends the end; what is not finite is refused, or NaN."""
    engine, again = Engine.from_bytes(content_of(small)), reader.network_of(small)
    x = torch.linspace(-40, 40, 3 * 6 * 6).view(1, 3, 6, 6)
    with torch.no_grad():
        assert_same_bits(engine(x.numpy()), again(x).numpy())
        for odd in (torch.nan, torch.inf, -torch.inf, 3e38):
            wrong = x.clone()
            wrong[0, 1, 2, 3] = odd
            assert again(wrong)[0, :, 2, 3].isnan().all()
            with pytest.raises(UserError, match="an image has a value that is not finite"):
                engine(wrong.numpy())


def test_bytes_of_a_layer_that_reads_values(rng, every_instruction_set):
    """They are normalized as the library's own images are."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1))
    model, pixels = compressed(model, (3, 9, 9), {"0": FOUR, "2": FOUR}), photos(rng, (3, 9, 9))
    file = packed(model, (3, 9, 9))
    with pytest.raises(
        UserError, match="does not say how pixels are normalized: export it with mean and std"
    ):
        Engine.from_bytes(content_of(file)).run_pixels(pixels.numpy())
    for statistics in (IMAGENET_STATISTICS, CIFAR_STATISTICS, HALVES):
        mean, std = map(list, statistics)
        content = changed(file, lambda plain, _: plain["about"].update(mean=mean, std=std))  # noqa: B023
        engine = Engine.from_bytes(content, threads=2)
        with torch.no_grad():
            wanted = model(grey_images.normalized(pixels, statistics)).numpy()
        for name in every_instruction_set:
            engines.choose_instruction_set(name)
            assert_same_bits(engine.run_pixels(pixels.numpy()), wanted)
            last = pixels.permute(0, 2, 3, 1).numpy()
            assert_same_bits(engine.run_pixels(last), wanted)


def test_bytes_of_another_shape(small):
    engine = Engine.from_bytes(content_of(small))
    for shape in ((2, 6, 6, 6), (3, 6, 6), (2, 3, 6, 5), (2, 6, 3, 6)):
        with pytest.raises(UserError, match=r"are not \(N, 3, 6, 6\) or"):
            engine.run_pixels(np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="are not"):
        engine.run_pixels(np.zeros((1, 3, 6, 6), np.uint8), channels_last=True)
    with pytest.raises(UserError, match="pixels are float32, but must be uint8"):
        engine.run_pixels(np.zeros((1, 3, 6, 6), np.float32))
    assert engine.run_pixels(np.zeros((0, 3, 6, 6), np.uint8)).shape == (0, 5, 6, 6)


def node(key, value):
    return lambda plain, tensors: plain["nodes"][1].__setitem__(key, value)


def tensor(name, value, index=0):
    return lambda plain, tensors: tensors[name].__setitem__(index, value)


def both(mean, std):
    def change(plain, tensors):
        for part in (plain["nodes"][1], plain["about"]):
            part.update(mean=mean, std=std)

    return change


def without_about(plain, tensors):
    del plain["about"]["mean"]


def float_sums(plain, tensors):
    plain["layers"]["0"]["sums"] = "float"


def read_elsewhere(plain, tensors):
    (end,) = (i for i, node in enumerate(plain["nodes"]) if node["kind"] == "activation")
    plain["nodes"][end]["inputs"] = [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (node("inputs", [1]), "does not come before it|inputs is 1"),
        (node("mean", [0.5, 0.5]), "a mean for each of 3 channels|2 means and 3 deviations"),
        (node("std", [0.5] * 3), "but about|another mean or std than about"),
        (without_about, "about lacks|another mean or std than about"),
        (both([1e7] * 3, [0.5] * 3), "does not tell 256 grey values apart"),
        (both([0.5] * 3, [0, 1, 1]), "above 0|does not tell 256 grey values apart"),
        (both([0.5] * 3, [0.25] * 3), "scale|is not the grey value of 0"),
        (tensor("0.input_zero_point", 7, 1), r"border \[124, 7, 104\]|is not the grey value of 0"),
        (tensor("0.input_scale", 2.0), "scale 2.0|is not that of the largest deviation"),
        (float_sums, "whose sums are no integers|its sums are no integers"),
        (read_elsewhere, "reads grey values, which only a convolution"),
        (lambda plain, tensors: plain.update(output=1), "gives grey values|the output is grey"),
    ],
)
def test_files_that_contradict_themselves_are_refused_by_both_readers(change, message, small):
    content = changed(small, change)
    with pytest.raises(UserError, match=message):
        reader.network_of(read(content))
    with pytest.raises(UserError, match=message):
        Engine.from_bytes(content)


def test_networks_that_read_grey_values_otherwise():
    bits = {"0": grey_images.bits_of(), "1": FOUR}
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 1))
    with pytest.raises(UserError, match="layer '0' pads with 'reflect', not zeros"):
        packed(compressed(model, (3, 8, 8), bits), (3, 8, 8))
    model = nn.Sequential(nn.Conv2d(3, 2, 129), nn.Conv2d(2, 2, 1))
    with pytest.raises(UserError, match="sums of layer '0' over grey values need more"):
        packed(compressed(model, (3, 129, 129), bits, sparsity=0), (3, 129, 129))
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match="layer '1' reads grey values of no image"):
        packed(compressed(model, (3, 8, 8), {"1": grey_images.bits_of()}), (3, 8, 8))


def test_what_the_file_says_of_images_is_the_layers_own(small, tmp_path):
    assert moments_of(small) == IMAGENET_STATISTICS
    model = grey_network("efficientnet-micro", 16)
    assert architectures.stem_name(model) == "_conv_stem"
    with pytest.raises(UserError, match="normalized by"):
        micronet.export(model, tmp_path, image_size=16, mean=[0.5] * 3, std=[0.5] * 3)
    assert moments_of(micronet.export(model, tmp_path, image_size=16)) == IMAGENET_STATISTICS
    assert "grey values" in inspection.description(reader.read(tmp_path))
