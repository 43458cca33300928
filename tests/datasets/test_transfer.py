"""Batches for a device: their order, what is sent ahead, and where the images are."""

import pytest
import torch

from devices import DEVICE
from image_folders import assert_same, make_folder, open_folder
from micronet.data.augmentation import policy
from micronet.data.transfer import one_ahead, sent_ahead
from micronet.recipe.schema import AugmentSection
from micronet.utils.errors import UserError

META = torch.device("meta")


def test_each_item_is_sent_before_the_one_before_it_is_received():
    seen = []
    found = one_ahead(range(4), lambda i: seen.append(f"send {i}") or i, lambda i: i)
    for item in found:
        seen.append(f"use {item}")
    assert seen == ["send 0", "send 1", "use 0", "send 2", "use 1", "send 3", "use 2", "use 3"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_an_error_comes_after_the_items_before_it(count):
    def items():
        yield from range(count)
        raise UserError("damaged")

    found = []
    with pytest.raises(UserError, match="damaged"):
        for item in one_ahead(items(), lambda i: i, lambda i: i):
            found.append(item)
    assert found == list(range(count))


def test_the_cpus_batches_are_passed_on():
    batches = [(torch.ones(2, 3), torch.zeros(2))] * 3
    assert all(
        a is b for a, b in zip(sent_ahead(batches, torch.device("cpu")), batches, strict=True)
    )


@pytest.mark.parametrize("side", [32, 96])
def test_moved_data_is_the_same_data(side, tmp_path):
    opened = open_folder(make_folder(tmp_path / "data", side), image_size=32)
    moved = opened.on(torch.device("cpu"))
    assert_same(opened.train(3), moved.train(3))
    assert_same(opened.validation(), moved.validation())


@pytest.mark.parametrize("image_size", [32, 24])
def test_small_images_are_cropped_where_they_stay(image_size, tmp_path):
    """Every tensor of it: one device refuses another's."""
    moved = open_folder(make_folder(tmp_path / "data", 32), image_size=image_size).on(META)
    for batches in (moved.train(0), moved.validation()):
        for images, labels in batches:
            assert images.device == labels.device == META
            assert images.shape == (len(labels), 3, image_size, image_size)
    # Held-out images of one set are moved with it once.
    parts = open_folder(tmp_path / "data", holdout=0.2).on(META).parts
    assert parts["train"][0] is parts["validation"][0]


def test_images_that_a_policy_changes_stay_on_the_cpu(tmp_path):
    opened = open_folder(make_folder(tmp_path / "data", 32))
    opened.parts["train"][0].policy = policy(AugmentSection(policy="randaugment"), "data")
    moved = opened.on(META).parts["train"][0]
    assert moved.pixels.device.type == "cpu" and moved.device == META


def test_both_know_what_is_skipped(tmp_path):
    root = make_folder(tmp_path / "data", 96)
    (root / "val" / "ant" / "000.jpg").write_bytes(b"no image")
    opened = open_folder(root, skip_bad_images=True, image_size=8)
    list(opened.on(torch.device("cpu")).validation())
    assert len(opened.skipped()) == 1


@pytest.mark.device
@pytest.mark.parametrize("side", [32, 96])
def test_a_device_gets_the_bits_of_the_cpu(side, tmp_path):
    opened = open_folder(make_folder(tmp_path / "data", side), image_size=32)
    moved = opened.on(DEVICE)
    for one, two in ((opened.train(2), moved.train(2)), (opened.validation(), moved.validation())):
        assert_same(one, [(images.cpu(), labels.cpu()) for images, labels in two])
