"""Data sets: sizes, splits, and what is wrong with a folder."""

import shutil
import urllib.error
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from image_folders import assert_same, collect, make_folder, open_folder, write_images
from micronet.data import datasets, image_files, sources
from micronet.data.splits import stratified_split
from micronet.models import architectures
from micronet.train import main
from micronet.training.evaluation import evaluate
from micronet.utils.errors import UserError


@pytest.fixture
def small(tmp_path):
    return make_folder(tmp_path / "small", 32)


def test_small_folder(small):
    opened = open_folder(small)
    assert (opened.name, opened.classes) == ("small", ("ant", "badger"))
    assert (opened.num_classes, opened.channels, opened.image_size) == (2, 3, 32)
    sizes = (opened.train_size, opened.validation_size, opened.test_size)
    assert sizes == (40, 12, 0)
    assert opened.steps_per_epoch == 5
    assert [len(y) for _, y in opened.train(0)] == [8] * 5
    assert [len(y) for _, y in opened.validation()] == [8, 4]
    assert list(opened.test()) == []
    images, labels = collect(opened.validation())
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert labels.tolist() == [0] * 6 + [1] * 6


def test_small_images_of_several_sizes_are_read_from_their_files(small):
    write_images(small / "val" / "ant", 1, 40)
    opened = open_folder(small)
    assert opened.image_size == 224
    assert opened.validation_size == 12


def test_one_batch_even_of_fewer_images_than_asked(small):
    opened = open_folder(small, batch_size=100)
    assert opened.steps_per_epoch == 1
    assert [len(y) for _, y in opened.train(0)] == [40]


def test_without_val_a_tenth_of_each_class_is_held_out(tmp_path):
    root = make_folder(tmp_path / "d", 16, parts=("train",))
    opened = open_folder(root)
    assert (opened.train_size, opened.validation_size, opened.test_size) == (36, 4, 0)
    labels = collect(opened.validation())[1]
    assert Counter(labels.tolist()) == {0: 2, 1: 2}
    assert_same(opened.validation(), open_folder(root, seed=9).validation())


def test_held_out_images_are_never_trained_on_and_never_augmented(tmp_path):
    root = make_folder(tmp_path / "d", 16, parts=("train",))
    opened = open_folder(root, trained=False, holdout=0.25, batch_size=30)
    trained = {image.numpy().tobytes() for image in collect(opened.train(0))[0]}
    held = {image.numpy().tobytes() for image in collect(opened.validation())[0]}
    assert (len(trained), len(held)) == (30, 10)
    assert not trained & held
    assert_same(opened.validation(), open_folder(root, holdout=0.25).validation())


def test_val_becomes_the_test_set_when_a_part_is_held_out(small):
    opened = open_folder(small, holdout=0.2)
    assert (opened.train_size, opened.validation_size, opened.test_size) == (32, 8, 12)
    assert_same(opened.test(), open_folder(small).validation())


def test_a_test_folder_is_the_test_set(tmp_path):
    root = make_folder(tmp_path / "d", 16, parts=("train", "val", "test"))
    opened = open_folder(root)
    assert (opened.train_size, opened.validation_size, opened.test_size) == (40, 12, 12)
    held = open_folder(root, holdout=0.5)
    assert (held.train_size, held.validation_size, held.test_size) == (20, 20, 12)
    assert_same(held.test(), opened.test())


def test_stratified_split_takes_at_least_one_and_leaves_at_least_one():
    labels = torch.tensor([0] * 100 + [1] * 3 + [2])
    kept, held = datasets.stratified_split(labels, 0.1)
    assert Counter(labels[held].tolist()) == {0: 10, 1: 1}
    assert sorted(kept.tolist() + held.tolist()) == list(range(104))
    _, most = datasets.stratified_split(labels, 0.9)
    assert Counter(labels[most].tolist()) == {0: 90, 1: 2}


def test_hidden_and_other_files_are_passed_over(small):
    (small / "train" / ".cache").mkdir()
    (small / "train" / "ant" / ".000.jpg").write_text("hidden")
    (small / "train" / "ant" / "notes.txt").write_text("no image")
    (small / "train" / "notes.txt").write_text("no class")
    write_images(small / "train" / "ant" / "more", 2, 32, kind="PNG")
    opened = open_folder(small)
    assert opened.classes == ("ant", "badger")
    assert opened.train_size == 42


def test_digits_are_those_that_the_package_loads(monkeypatch):
    images, labels = sources._scanned_digits()
    monkeypatch.setattr(sources, "_DIGITS", sources._DIGITS.with_name("elsewhere"))
    expected = sources._scanned_digits()
    assert images.dtype == expected[0].dtype and labels.dtype == expected[1].dtype
    assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])


def test_digits():
    opened = datasets.open_data("digits", image_size=None, batch_size=64, seed=0)
    assert (opened.num_classes, opened.channels, opened.image_size) == (10, 3, 32)
    assert opened.train_size + opened.validation_size + opened.test_size == 1797
    assert abs(opened.test_size - 1797 / 5) < 10
    assert abs(opened.validation_size - 1797 * 0.8 / 10) < 10
    assert set(collect(opened.test())[1].tolist()) == set(range(10))
    images, _ = collect(opened.validation())
    assert images.shape[1:] == (3, 32, 32)
    smaller = datasets.open_data("digits", image_size=8, batch_size=64, seed=0)
    assert collect(smaller.test())[0].shape[2:] == (8, 8)
    assert opened.parts["train"][0].flip is False


def test_digits_and_suffixes_are_those_of_the_packages_that_are_not_imported_for_them():
    digits = load_digits()
    found = sources.find("digits", sources.Request(image_size=8))
    images = torch.cat([found.train.pixels, found.test.pixels])
    labels = torch.cat([found.train.labels, found.test.labels])
    places = torch.cat(stratified_split(torch.from_numpy(digits.target), 0.2))
    assert torch.equal(labels, torch.from_numpy(digits.target)[places])
    expected = (torch.from_numpy(digits.images).float() * (255 / 16)).round()[places]
    assert torch.equal(images, expected.byte()[..., None].expand(-1, -1, -1, 3))
    assert found.classes == tuple(map(str, digits.target_names))
    assert image_files.IMG_EXTENSIONS == IMG_EXTENSIONS


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_comes_from_torchvision(name, monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            assert (root, download) == (".data", True)
            self.data = np.zeros((40 if train else 8, 32, 32, 3), dtype=np.uint8)
            self.targets = [0, 1] * (len(self.data) // 2)
            self.classes = ["a", "b"]

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}", Fake)
    opened = datasets.open_data(name, image_size=None, batch_size=8, seed=0)
    assert (opened.name, opened.classes) == (name, ("a", "b"))
    assert (opened.train_size, opened.validation_size, opened.test_size) == (36, 4, 8)
    assert next(iter(opened.train(0)))[0].shape == (8, 3, 32, 32)


def test_a_failed_download_is_one_sentence(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(UserError, match=r"cannot fetch cifar10 into '.data'.*no route") as caught:
        datasets.open_data("cifar10", image_size=None, batch_size=8, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_needs_no_training_images(part, tmp_path, capsys):
    root = make_folder(tmp_path / "images", 32, parts=(part,), count=6)
    weights = tmp_path / "weights.pth"
    torch.save(architectures.create_model("resnet20", 2).state_dict(), weights)
    command = ["eval", "--arch", "resnet20", "--weights", str(weights), "--data", str(root)]
    assert main(command) == 0
    assert "of 12 correct" in capsys.readouterr().out
    other = {"val": "test", "test": "validation"}[part]
    for more in (["--split", other], ["--holdout", "0.5"]):
        assert main([*command, *more]) == 2
        assert "has no" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"holds no folder train/\Z"):
        open_folder(root)


def test_folders_that_are_none(tmp_path, small):
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        open_folder("cifar-10")
    with pytest.raises(UserError, match="holds no folder train/"):
        open_folder(tmp_path)
    shutil.rmtree(small / "train" / "badger")
    with pytest.raises(UserError, match=r"val' are not those of train/: only val/ has 'badger'"):
        open_folder(small)
    (small / "train" / "badger").mkdir()
    with pytest.raises(UserError, match=r"class folder '.*/train/badger' holds no images"):
        open_folder(small)
    shutil.rmtree(small / "train")
    (small / "train").mkdir()
    with pytest.raises(UserError, match=r"train' holds no class folders"):
        open_folder(small)


def test_nothing_to_hold_out(tmp_path):
    root = make_folder(tmp_path / "d", 16, parts=("train",), count=1)
    with pytest.raises(UserError, match="no class of two images"):
        open_folder(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -2}, "workers is -2"),
        ({"holdout": 0.0}, "holdout is 0.0"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"holdout": float("nan")}, "holdout is nan"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        open_folder("digits", **options)


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_left_out_and_counted_where_that_is_asked_for(side, workers, tmp_path):
    root = make_folder(tmp_path / "data", side)
    bad = sorted((root / "train" / "ant").iterdir())[3]
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    found = open_folder(root, skip_bad_images=True, workers=workers)
    for _ in range(2):
        labels = torch.cat([labels for _, labels in found.train(0)])
        assert len(labels) == found.steps_per_epoch * 8 - 1 and int((labels == 0).sum()) == 19
    assert len(found.skipped()) == 1 and str(bad) in found.skipped()[0]
    with pytest.raises(UserError, match=bad.name):
        list(open_folder(root, workers=workers).train(0))


def test_a_batch_of_damaged_images_alone_stops(tmp_path):
    root = make_folder(tmp_path / "data", 96)
    for path in (root / "train" / "ant").iterdir():
        path.write_bytes(b"")
    for path in (root / "train" / "badger").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        list(open_folder(root, skip_bad_images=True, image_size=8).train(0))


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_damaged_image_alone_in_its_batch_is_left_out_of_an_evaluation(
    place, batch_size, tmp_path
):
    root = make_folder(tmp_path / "data", 32)
    files = sorted((root / "val").rglob("*.jpg"))
    files[place].write_bytes(b"no image")
    found = open_folder(root, skip_bad_images=True, batch_size=batch_size, image_size=8)
    batches = list(found.validation())
    assert sum(len(labels) for _, labels in batches) == len(files) - 1
    assert all(len(images) == len(labels) > 0 for images, labels in batches)
    assert [str(files[place]) in message for message in found.skipped()] == [True]


def test_an_evaluation_of_damaged_images_alone_is_a_sentence(tmp_path):
    root = make_folder(tmp_path / "data", 32)
    for path in (root / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    found = open_folder(root, skip_bad_images=True, image_size=8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, found.num_classes))
    with pytest.raises(UserError, match="no image that is not damaged"):
        evaluate(network, found.validation())


def test_the_command_says_how_many_were_left_out(tmp_path, capsys):
    root = make_folder(tmp_path / "data", 96)
    (root / "train" / "ant" / "000.jpg").write_bytes(b"no image")
    fit = ["fit", "--arch", "resnet20", "--data", str(root), "--image-size", "16", "--epochs", "1"]
    fit += ["--batch-size", "8", "--threads", "1", "--out", str(tmp_path / "run")]
    assert main([*fit, "--skip-bad-images"]) == 0
    message = capsys.readouterr().err
    assert message.startswith("1 damaged image left out, the first: ") and "000.jpg" in message
