"""Training images that the device decodes; without one, torchvision's CPU decoder stands in."""

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from image_folders import assert_same, make_folder, open_folder
from micronet.cli import stage
from micronet.data import device_decoding
from micronet.data.augmentation import policy
from micronet.data.image_files import decode_pixels
from micronet.data.windows import resized_bytes, resized_floats
from micronet.recipe.schema import AugmentSection
from micronet.runs import checkpoint
from micronet.train import main
from micronet.utils.errors import UserError

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def large(tmp_path):
    return make_folder(tmp_path / "large", 96)


@pytest.fixture
def decoded(monkeypatch):
    """The number of images in each call of the decoder that stands in for the device's."""
    calls, real = [], torchvision.io.decode_jpeg

    def counted(contents, **options):
        calls.append(len(contents))
        return real(contents, **options)

    monkeypatch.setattr(device_decoding.vision, "decode_jpeg", counted)
    return calls


def both(root, **options):
    """Return a folder's data twice: decoded by the CPU, and by the device or what stands in."""
    one, two = (open_folder(root, **{"image_size": 32} | options) for _ in range(2))
    return one, two.decode_on_device()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_cpu_bit_for_bit(workers, large, decoded):
    """The same windows, mirrored where they are, in the same order, with the same labels."""
    plain, device = both(large, workers=workers)
    for epoch in range(2):
        assert_same(plain.train(epoch), device.train(epoch))
    assert decoded == [8] * 10


def test_validation_and_test_are_decoded_by_the_cpu(tmp_path, decoded):
    root = make_folder(tmp_path / "data", 96, parts=("train", "val", "test"), count=6)
    for options in ({}, {"holdout": 0.3}):
        plain, device = both(root, **options)
        assert_same(plain.validation(), device.validation())
        assert_same(plain.test(), device.test())
    assert decoded == []


def test_an_epoch_goes_on_from_any_step_and_in_any_batches(large):
    _, device = both(large)
    whole = list(device.train(1))
    assert_same(whole[2:], device.train(1, start_step=2))
    assert_same(whole, both(large, batch_size=20)[1].train(1))


def noise(*shape):
    return np.random.default_rng().integers(0, 256, shape, dtype=np.uint8)


def image(*shape):
    return Image.fromarray(noise(*shape))


# How a file is saved that ends in .jpg, and whether the device decodes it.
KINDS = {
    "plain": (lambda path: image(90, 70, 3).save(path), True),
    "progressive": (lambda path: image(90, 70, 3).save(path, progressive=True), True),
    "gray": (lambda path: image(90, 70).save(path), True),
    "RGB": (lambda path: image(90, 70, 3).save(path, keep_rgb=True), False),
    "CMYK": (lambda path: image(90, 70, 3).convert("CMYK").save(path), False),
    "a PNG": (lambda path: image(90, 70, 3).save(path, "PNG"), False),
    "several pictures": (
        lambda path: image(90, 70, 3).save(path, "MPO", save_all=True, append_images=[image(9, 9)]),
        False,
    ),
    "16 bits": (lambda path: image(90, 70).convert("I;16").save(path, "PNG"), False),
    "reduced by more than 64": (lambda path: image(9, 9, 3).resize((1500, 1500)).save(path), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_usual_jpeg_file_is_decoded_by_the_cpu(kind, tmp_path, decoded):
    save, on_device = KINDS[kind]
    root = make_folder(tmp_path / "data", 96, count=4)
    save(root / "train" / "ant" / "000.jpg")
    plain, device = both(root, image_size=4)
    for epoch in range(2):
        assert_same(plain.train(epoch), device.train(epoch))
    assert decoded == [8 if on_device else 7] * 2


def test_a_batch_without_any_jpeg_file(tmp_path, decoded):
    root = make_folder(tmp_path / "data", 96, count=4)
    for path in (root / "train").rglob("*.jpg"):
        image(90, 70, 3).save(path, "PNG")
    plain, device = both(root)
    assert_same(plain.train(0), device.train(0))
    assert decoded == []


@pytest.mark.parametrize("refused", [(0,), (7,), (2, 3, 6), range(8)], ids=str)
def test_what_the_device_refuses_is_decoded_by_the_cpu(refused, large, monkeypatch):
    plain, device = both(large, batch_size=8)
    batch = next(iter(device.train(0)))
    real, bad = torchvision.io.decode_jpeg, []

    def refusing(contents, **options):
        if not bad:
            bad.extend(contents[place].clone() for place in refused)
        if any(torch.equal(content, other) for content in contents for other in bad):
            raise RuntimeError("nvJPEG: not supported")
        return real(contents, **options)

    monkeypatch.setattr(device_decoding.vision, "decode_jpeg", refusing)
    assert_same([batch], [next(iter(device.train(0)))])
    assert_same([batch], [next(iter(plain.train(0)))])
    assert len(bad) == len(refused)


@pytest.mark.parametrize("how", ["cut", "text", "cut before its end marker"])
def test_damaged_images_are_named_or_left_out_as_before(how, large, decoded):
    path = sorted((large / "train" / "ant").iterdir())[3]
    content = path.read_bytes()
    half = content[: len(content) // 2]
    endings = {"cut": half, "text": b"no image", "cut before its end marker": half + b"\xff\xd9"}
    path.write_bytes(endings[how])
    plain, device = both(large, skip_bad_images=True)
    assert_same(plain.train(0), device.train(0))
    assert plain.skipped() == device.skipped()
    if plain.skipped():
        for data in both(large):
            with pytest.raises(UserError, match=path.name):
                list(data.train(0))


def test_images_that_a_policy_changes_are_decoded_by_the_cpu(large, decoded):
    """A recipe cannot ask for both; who opens data in Python can."""
    plain, device = both(large)
    for data in (plain, device):
        data.parts["train"][0].policy = policy(AugmentSection(policy="randaugment"), "data")
    assert_same(plain.train(0), device.train(0))
    assert decoded == []


@pytest.mark.parametrize("shape", [(90, 70), (33, 31), (8, 500), (1, 1)])
def test_a_device_resizes_within_one_level_of_the_cpu(shape):
    """The CPU rounds twice and a device once, by half a level each, from nearly the same number."""
    part = torch.from_numpy(noise(3, *shape))
    one, two = resized_bytes(part, 32), resized_floats(part, 32)
    assert one.shape == two.shape == (3, 32, 32) and one.dtype == two.dtype == torch.uint8
    assert int((one.int() - two.int()).abs().max()) <= 1


def test_notes_say_where_there_is_nothing_to_decode(large, tmp_path):
    assert open_folder(large).decode_on_device().notes == ()
    (note,) = open_folder("digits", image_size=8).decode_on_device().notes
    assert "train.decode device" in note and "'digits'" in note and "memory" in note
    root = make_folder(tmp_path / "data", 96, count=4)
    for path in root.rglob("*.jpg"):
        path.rename(path.with_suffix(".png"))
    (note,) = open_folder(root).decode_on_device().notes
    assert "'data'" in note and ".jpg" in note


def written(folder, **sections):
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


REFUSALS = {
    "train.decode 'gpu' is not one of cpu, device": (True, True, {"decode": "gpu"}),
    "train.decode device: augment.policy 'randaugment' changes images on the CPU": (
        True,
        True,
        {"decode": "device"},
    ),
    "train.decode device needs a CUDA device, and this machine has none": (
        False,
        True,
        {"decode": "device"},
    ),
    "train.decode device needs nvJPEG": (True, False, {"decode": "device"}),
}


@pytest.mark.parametrize("problem", REFUSALS)
def test_what_cannot_be_decoded_is_said_before_a_run_begins(problem, tmp_path, capsys, monkeypatch):
    available, can_decode, train = REFUSALS[problem]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(stage, "can_decode", lambda device: can_decode)
    augment = {"policy": "randaugment" if "randaugment" in problem else "none", "mixup": 0.2}
    recipe = written(tmp_path, train=train, augment=augment)
    fit = ["fit", "--arch", "resnet20", "--schedule", recipe, "--out", str(tmp_path / "run")]
    assert main(fit) == 2
    said = capsys.readouterr().err
    assert problem in said and "recipe.yaml:" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_machine_without_a_device_cannot_decode(monkeypatch):
    def no_driver(*args, **options):
        raise RuntimeError("no driver")

    assert device_decoding.can_decode(CPU)
    monkeypatch.setattr(device_decoding.vision, "decode_jpeg", no_driver)
    assert not device_decoding.can_decode(CPU)


def fit(root, out, recipe, *more):
    command = ["fit", "--arch", "resnet20", "--data", str(root), "--schedule", recipe]
    sizes = ["--image-size", "16", "--batch-size", "8", "--threads", "1"]
    return main([*command, *sizes, "--out", str(out), *more])


@pytest.mark.slow
def test_a_run_decodes_on_the_device_and_repeats_when_resumed(
    large, tmp_path, decoded, monkeypatch, capsys
):
    monkeypatch.setattr(stage, "check_machine", lambda config: None)
    train = {"epochs": 2, "lr": 0.05}
    recipes = [written(tmp_path / who, train=train | {"decode": who}) for who in ("cpu", "device")]
    runs = [tmp_path / name for name in ("plain", "whole", "stopped")]
    assert fit(large, runs[0], recipes[0]) == 0 and decoded == []
    assert fit(large, runs[1], recipes[1]) == 0 and decoded == [8] * 10
    real, steps = torch.optim.SGD.step, iter(range(100))

    def interrupted(self, *args, **kwargs):
        if next(steps) == 6:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    assert fit(large, runs[2], recipes[1], "--checkpoint-every", "2") == 130
    monkeypatch.setattr(torch.optim.SGD, "step", real)
    decoded.clear()
    assert main(["fit", "--out", str(runs[2]), "--resume", "--threads", "1"]) == 0
    assert decoded and set(decoded) == {8}
    one, *others = (checkpoint.load(run / "last.safetensors").tensors for run in runs)
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)
    assert (
        fit("digits", tmp_path / "digits", recipes[1], "--epochs", "1", "--batch-size", "400") == 0
    )
    assert "note: train.decode device finds nothing to decode" in capsys.readouterr().out


def write_photo(path, **options):
    """Write what compresses as a photo does: smooth colors, finer light, an edge."""
    colors = image(4, 5, 3).resize((512, 384), Image.Resampling.BICUBIC)
    light = image(96, 128).resize((512, 384), Image.Resampling.BICUBIC)
    pixels = 0.7 * np.asarray(colors, dtype=float) + 0.3 * np.asarray(light)[:, :, None]
    pixels[:, 300:] *= 0.6
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    # IEEE 1180 allows each decoder one level of a component, which makes two between them; blue is
    # light + 1.772 of its own component, rounded once by each: below 2 * 2.772 + 1. Fewer colors
    # than pixels are repeated by one and interpolated by the other: measured on photos, at most 71,
    # and 0.75 on average.
    "subsampling,most,mean",
    [("4:4:4", 6, 0.75), ("4:2:0", 71, 0.75)],
)
def test_pixels_of_a_device_are_near_those_of_the_cpu(
    subsampling, most, mean, progressive, tmp_path
):
    paths = [str(tmp_path / f"{index}.jpg") for index in range(8)]
    for path in paths:
        write_photo(path, subsampling=subsampling, progressive=progressive)
    contents = [torch.from_numpy(np.fromfile(path, dtype=np.uint8)) for path in paths]
    for path, frame in zip(paths, device_decoding._decoded(contents, CUDA), strict=True):
        assert frame is not None, "the device refused it"
        apart = (frame.cpu().permute(1, 2, 0).int() - decode_pixels(path).int()).abs()
        assert int(apart.max()) <= most and float(apart.double().mean()) <= mean


@pytest.mark.gpu
def test_a_device_repeats_its_epochs_to_the_bit_near_those_of_the_cpu(tmp_path):
    root = make_folder(tmp_path / "data", 96, count=40)
    for path in (root / "train").rglob("*.jpg"):
        write_photo(path)
    image(90, 70, 3).save(root / "train" / "ant" / "000.jpg", "PNG")
    plain, device = both(root, image_size=64)
    moved = device.on(CUDA)
    epochs = [[(x.cpu(), y.cpu()) for x, y in moved.train(0)] for _ in range(3)]
    assert_same(epochs[0], epochs[1])
    assert_same(epochs[0], epochs[2])
    assert_same(plain.validation(), [(x.cpu(), y.cpu()) for x, y in moved.validation()])
    for (images, labels), (pixels, same) in zip(epochs[0], plain.train(0), strict=True):
        assert torch.equal(labels, same)
        # The largest standard deviation of a channel makes at least as many levels of it. Decoders
        # are 0.75 apart on average, and how their pixels are resized at most one more.
        assert float((images - pixels).abs().double().mean()) * 255 * 0.229 <= 1.75
