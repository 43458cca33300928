"""Batches: pixels, order, augmentation, and damaged images."""

import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from image_folders import assert_same, collect, make_folder, open_folder, write_images
from micronet.data import batches
from micronet.data.batches import IMAGENET_STATISTICS, _normalize, _normalize_files
from micronet.data.image_files import decode, decode_pixels
from micronet.data.samples import Files
from micronet.data.seeds import generator
from micronet.data.windows import drawn
from micronet.utils.errors import UserError
from paths import IMAGES


@pytest.fixture
def small(tmp_path):
    return make_folder(tmp_path / "small", 32)


@pytest.fixture
def large(tmp_path):
    return make_folder(tmp_path / "large", 96, count=10)


def test_pixels_are_normalized_exactly(small):
    images, _ = collect(open_folder(small).validation())
    pixels = torch.from_numpy(np.array(decode(str(small / "val" / "ant" / "000.jpg")))).double()
    mean, deviation = (torch.tensor(row).double() for row in batches.CIFAR_STATISTICS)
    expected = ((pixels / 255 - mean) / deviation).permute(2, 0, 1)
    # Six roundings to float32, half an ulp each: of 255 * mean and 255 * deviation two apiece, of
    # the difference and of the quotient; none moves a result above 256 / (255 * 0.199) by more.
    assert (images[0] - expected).abs().max() <= 6 * 256 / (255 * 0.199) * 2.0**-24


def test_large_folder(large):
    opened = open_folder(large, image_size=48)
    assert (opened.image_size, opened.train_size, opened.validation_size) == (48, 20, 12)
    images, labels = collect(opened.train(0))
    assert images.shape == (16, 3, 48, 48)
    assert len(labels) == 16
    assert open_folder(large).image_size == 224
    # The center of the image after its short side was brought to 256 / 224 of 84: itself.
    images, _ = collect(open_folder(large, image_size=84).validation())
    pixels = np.array(decode(str(large / "val" / "ant" / "000.jpg")))[6:90]
    assert images.shape == (12, 3, 84, 84)
    crops = [
        torch.from_numpy(pixels[:, left : left + 84].copy()).permute(2, 0, 1) for left in (6, 7)
    ]
    ours = [batches._normalize(crop[None], batches.IMAGENET_STATISTICS)[0] for crop in crops]
    assert any(torch.equal(images[0], crop) for crop in ours)


@pytest.mark.parametrize("folder", ["small", "large"])
def test_order_and_augmentation_depend_on_seed_and_epoch_alone(folder, request):
    root = request.getfixturevalue(folder)
    first, second = open_folder(root, image_size=32), open_folder(root, image_size=32)
    torch.manual_seed(1)
    before = collect(first.train(4))
    torch.manual_seed(2)
    list(second.train(0))
    assert_same([before], second.train(4))
    assert not torch.equal(before[0], collect(first.train(5))[0])
    assert not torch.equal(before[0], collect(open_folder(root, image_size=32, seed=4).train(4))[0])


@pytest.mark.parametrize("folder", ["small", "large"])
def test_the_global_generator_is_not_disturbed(folder, request):
    opened = open_folder(request.getfixturevalue(folder), image_size=32)
    before = torch.get_rng_state()
    list(opened.train(0))
    list(opened.validation())
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing(large):
    alone, helped = (open_folder(large, image_size=32, workers=workers) for workers in (0, 2))
    assert_same(alone.train(1), helped.train(1))
    assert_same(alone.validation(), helped.validation())


@pytest.mark.parametrize("folder", ["small", "large"])
def test_batch_size_changes_no_sample(folder, request):
    root = request.getfixturevalue(folder)
    whole = collect(open_folder(root, image_size=32, batch_size=20).train(2))
    parts = collect(open_folder(root, image_size=32, batch_size=5).train(2))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_small_augmentation_is_a_shifted_and_mirrored_window():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (60, 32, 32, 3), dtype=torch.uint8, generator=random)
    images = batches.MemoryImages(pixels, torch.arange(60), 32, flip=True)
    order = [torch.arange(59, -1, -1)]
    ((found, labels),) = images.batches(order, (1, 2))
    assert labels.tolist() == list(range(59, -1, -1))
    top, left, mirrored = images._windows(1, 2)
    assert set(top.tolist()) == set(left.tolist()) == set(range(9))
    assert 15 < int(mirrored.sum()) < 45
    for image, index in zip(found, labels.tolist(), strict=True):
        padded = torch.zeros(40, 40, 3, dtype=torch.uint8)
        padded[4:36, 4:36] = pixels[index]
        y, x = int(top[index]), int(left[index])
        window = padded[y : y + 32, x : x + 32].permute(2, 0, 1)
        window = window.flip(2) if mirrored[index] else window
        assert torch.equal(image, batches._normalize(window[None], batches.CIFAR_STATISTICS)[0])


def test_without_augmentation_training_images_are_the_images(small):
    opened = open_folder(small, trained=False, batch_size=40)
    images, labels = collect(opened.train(0))
    again, relabeled = collect(opened.train(1))
    assert not torch.equal(images, again)
    assert sorted(map(float, images.double().sum((1, 2, 3)))) == sorted(
        map(float, again.double().sum((1, 2, 3)))
    )
    assert Counter(labels.tolist()) == Counter(relabeled.tolist()) == {0: 20, 1: 20}


def test_small_images_are_resized_by_the_batch(small):
    opened = open_folder(small, image_size=48)
    assert opened.image_size == 48
    assert next(iter(opened.train(0)))[0].shape == (8, 3, 48, 48)
    assert next(iter(opened.validation()))[0].shape == (8, 3, 48, 48)


def spoil(path, how):
    content = path.read_bytes()
    path.write_bytes(b"this is no image" if how == "text" else content[: len(content) // 2])


@pytest.mark.parametrize("how", ["text", "cut"])
def test_a_damaged_small_image_is_named(small, how):
    path = small / "train" / "badger" / "007.jpg"
    spoil(path, how)
    with pytest.raises(UserError, match=r"/train/badger/007\.jpg' is damaged") as caught:
        open_folder(small)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["text", "cut"])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_damaged_large_image_is_named(large, how, workers, part):
    path = large / ("train" if part == "train" else "val") / "badger" / "003.jpg"
    spoil(path, how)
    opened = open_folder(large, image_size=32, workers=workers, batch_size=20)
    with pytest.raises(UserError, match=r"/badger/003\.jpg' is damaged") as caught:
        collect(opened.train(0) if part == "train" else opened.validation())
    assert "\n" not in str(caught.value)


def test_a_cut_jpeg_is_refused_wherever_it_is_cut(tmp_path):
    write_images(tmp_path, 1, 32)
    path = tmp_path / "000.jpg"
    whole, content = np.array(decode(str(path))), path.read_bytes()
    refused = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(np.array(decode(str(path))), whole)
        except UserError:
            refused += 1
    # Only the end-of-image marker can be missing without a loss.
    assert refused >= len(range(0, len(content) - 2, 7))


@pytest.mark.data
def test_imagenet_sample_passes_through_the_file_path(tmp_path):
    with tarfile.open(IMAGES / "imagenet-sample.tar") as tar:
        members = [member for member in tar.getmembers() if member.isfile()][:12]
        tar.extractall(tmp_path, members=members, filter="data")
    shutil.copytree(tmp_path / "imagenet-sample" / "val", tmp_path / "imagenet-sample" / "train")
    opened = open_folder(tmp_path / "imagenet-sample", image_size=64)
    images, labels = collect(opened.validation())
    assert images.shape == (12, 3, 64, 64)
    assert labels.tolist() == list(range(12))
    # Natural images, normalized by the statistics of their kind, stay within a few deviations.
    assert float(images.abs().max()) < 3
    assert 0.5 < float(images.std()) < 2


HELD = {"jpg": "RGB L CMYK", "png": "RGB L RGBA P", "bmp": "RGB L RGBA P"}


@pytest.mark.parametrize(
    "suffix,mode", [(suffix, mode) for suffix, modes in HELD.items() for mode in modes.split()]
)
def test_pixels_are_those_of_pillow(suffix, mode, tmp_path):
    noise = np.random.default_rng().integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = str(tmp_path / f"x.{suffix}")
    Image.fromarray(noise).convert(mode).save(path)
    assert np.array_equal(decode_pixels(path).numpy(), np.asarray(decode(path)))


def test_windows_are_parts_of_the_image_as_large_as_they_should_be():
    shares, seen = [], set()
    for index in range(2000):
        pixels = torch.empty(40 + index % 90, 100, 3, dtype=torch.uint8)
        top, left, height, width, mirrored = drawn(*pixels.shape[:2], generator(0, 1, index))
        rows, columns = pixels.shape[:2]
        assert 0 <= top <= rows - height and 0 <= left <= columns - width
        # A pixel is lost or gained where a side is rounded.
        assert 0.7 * (width - 1) <= height + 1 and height - 1 <= 4 / 3 * (width + 1)
        shares.append(height * width / (rows * columns))
        seen.add(mirrored)
    assert min(shares) >= 0.07 and max(shares) <= 1
    # As large on average as torchvision's: the mean of 2,000 shares deviates by 0.005.
    theirs = []
    for index in range(2000):
        image = torch.empty(3, 40 + index % 90, 100)
        _, _, height, width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        theirs.append(height * width / image[0].numel())
    assert abs(sum(shares) - sum(theirs)) / 2000 < 0.04
    assert seen == {False, True}


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1000, 3)])
def test_window_of_a_strip_is_the_middle_of_it(size):
    pixels = torch.empty(*size, 3, dtype=torch.uint8)
    top, left, height, width, _ = drawn(*pixels.shape[:2], generator(0))
    assert height >= 1 and width >= 1
    assert top + height <= size[0] and left + width <= size[1]


def test_files_are_normalized_as_memory_is():
    pixels = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8)
    found = _normalize_files(pixels)
    assert torch.equal(found, _normalize(pixels.permute(0, 3, 1, 2), IMAGENET_STATISTICS))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_training_sees_a_part_near_what_pillow_makes_of_it(tmp_path):
    noise = np.random.default_rng().integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    found = Files([str(tmp_path / "x.png")], 32, (3, 4))[0]
    top, left, height, width, mirrored = drawn(*noise.shape[:2], generator(3, 4, 2, 0))
    part = Image.fromarray(noise).crop((left, top, left + width, top + height))
    wanted = torch.from_numpy(np.array(part.resize((32, 32), Image.Resampling.BILINEAR)))
    wanted = wanted.flip(1) if mirrored else wanted
    assert int((found.int() - wanted.int()).abs().max()) <= 1
