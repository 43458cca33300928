"""How images are prepared: by default, as timm does it, and as a checkpoint says."""

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from image_folders import make_folder, open_folder
from micronet.data import batches
from micronet.data.preprocessing import Preprocessing, of_record, to_record
from micronet.models import architectures
from micronet.utils.errors import UserError


def photo(height, width):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "convnext_base.fb_in22k_ft_in1k_384", "test_vit"]
)
@pytest.mark.parametrize("shape", [(300, 431), (97, 80)])
def test_evaluation_sees_what_timm_sees(name, shape):
    wanted = architectures.preprocessing(f"timm:{name}")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config, is_training=False)(photo(*shape))
    pixels = wanted.center(wanted.image_size)(photo(*shape))
    ours = batches._normalize_files(pixels.permute(1, 2, 0)[None], wanted.statistics)[0]
    # The same bytes; torchvision divides by 255 before it normalizes, which rounds apart.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * torch.finfo(torch.float32).eps * 3)


def test_by_default_an_eighth_of_the_side_is_cut_off():
    assert [Preprocessing().resized_side(size) for size in (224, 32, 299)] == [256, 37, 342]
    assert Preprocessing(crop_share=0.95).resized_side(224) == 235


def test_small_images_take_mean_and_deviation_alone(tmp_path):
    wanted = Preprocessing(
        mean=(0.5,) * 3, deviation=(0.5,) * 3, interpolation="bicubic", crop_share=0.5
    )
    root = make_folder(tmp_path / "data", 32)
    plain, changed = (
        next(open_folder(root, preprocessing=p).validation())[0] for p in (None, wanted)
    )
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in batches.CIFAR_STATISTICS)
    torch.testing.assert_close((plain * deviation + mean - 0.5) / 0.5, changed)


def test_training_takes_the_interpolation_and_keeps_its_own_crop(tmp_path):
    root = make_folder(tmp_path / "data", 80)

    def first(**changed):
        opened = open_folder(root, image_size=32, preprocessing=Preprocessing(**changed))
        return next(opened.train(0))[0]

    assert torch.equal(first(), first(crop_share=0.5, squash=True))
    assert not torch.equal(first(), first(interpolation="bicubic"))


def test_large_images_have_the_networks_size(tmp_path):
    root = make_folder(tmp_path / "data", 80)
    assert open_folder(root, preprocessing=Preprocessing(48)).image_size == 48
    assert open_folder(root, image_size=40, preprocessing=Preprocessing(48)).image_size == 40


def test_a_record_comes_back():
    wanted = Preprocessing(48, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0), "bicubic", 0.9, True)
    assert of_record({"preprocessing": to_record(wanted)}) == wanted
    assert of_record({"preprocessing": to_record(None)}) is of_record({}) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"image_size": 0},
        {"image_size": "32"},
        {"mean": [0.5]},
        {"deviation": [0.5, 0.5, 0.0]},
        {"deviation": "abc"},
        {"mean": [0.5, 0.5, float("nan")]},
        {"interpolation": "best"},
        {"crop_share": 2.0},
        {"nothing": 1},
    ],
)
def test_a_damaged_record_is_refused(changed):
    record = to_record(Preprocessing()) | changed
    with pytest.raises(UserError, match=r"checkpoint 'x' does not say how images are prepared: "):
        of_record({"preprocessing": record}, "x")
    with pytest.raises(UserError):
        of_record({"preprocessing": []}, "x")
