"""Image files of every mode, and folders whose links lead astray."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from image_folders import make_folder, open_folder, write_images
from micronet.data import image_files
from micronet.models import architectures
from micronet.train import main
from micronet.utils.errors import UserError

SIDE = 12
GRAY = np.random.default_rng(0).integers(0, 1 << 16, (SIDE, SIDE)).astype(np.uint16)
COLORS = np.random.default_rng(1).integers(0, 1 << 16, (SIDE, SIDE, 4)).astype(np.uint16)
BYTES = (COLORS >> 8).astype(np.uint8)


def both_ways(path):
    """Return an image as both decoders read it, which must be the same."""
    pixels = np.asarray(image_files.decode(str(path)))
    assert np.array_equal(image_files.decode_pixels(str(path)).numpy(), pixels)
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    return pixels


def as_gray(plane):
    return np.repeat(np.asarray(plane, dtype=np.uint8)[:, :, None], 3, axis=2)


def refused(path, *parts):
    for read in (image_files.decode, image_files.decode_pixels):
        with pytest.raises(UserError) as caught:
            read(str(path))
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
        for part in parts:
            assert part in message, (part, message)


def png(samples, color):
    """Return a PNG file of 16-bit samples (height, width, channels)."""

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(content, bits, *, photometric=1, sample_format=1, order="<"):
    """Return a TIFF file of one uncompressed strip of gray samples."""
    tags = {256: SIDE, 257: SIDE, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: SIDE, 279: len(content), 339: sample_format}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value)
        for tag, value in tags.items()
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    offset = struct.pack(f"{order}I", 8 + len(content))
    return mark + offset + content + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4


SIXTEEN = {
    "gray.png": png(GRAY[:, :, None], 0),
    "gray and alpha.png": png(np.stack([GRAY, GRAY[::-1]], axis=2), 4),
    "little.tif": tiff(GRAY.astype("<u2").tobytes(), 16),
    "big.tif": tiff(GRAY.astype(">u2").tobytes(), 16, order=">"),
    "white is zero.tif": tiff((65535 - GRAY).astype("<u2").tobytes(), 16, photometric=0),
    "maxval.pgm": b"P5\n%d %d\n65535\n" % (SIDE, SIDE) + GRAY.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_sixteen_bits_of_gray_keep_their_upper_eight(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(SIXTEEN[name])
    assert np.array_equal(both_ways(path), as_gray(GRAY >> 8))


@pytest.mark.parametrize("channels,color", [(3, 2), (4, 6)])
def test_sixteen_bits_of_color_keep_their_upper_eight(channels, color, tmp_path):
    """As Pillow has it, which is why gray does too."""
    path = tmp_path / "colors.png"
    path.write_bytes(png(COLORS[:, :, :channels], color))
    assert np.array_equal(both_ways(path), BYTES[:, :, :3])


def test_twelve_bits_are_scaled_by_what_the_file_says(tmp_path):
    small = GRAY >> 4
    pairs = small.reshape(-1, 2).astype(np.uint32)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    content = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8)
    path = tmp_path / "twelve.tif"
    path.write_bytes(tiff(content.tobytes(), 12))
    assert np.array_equal(both_ways(path), as_gray(small >> 4))


NO_RANGE = {
    "floats": (tiff(GRAY.astype("<f4").tobytes(), 32, sample_format=3), ["TIFF", "floats", "'F'"]),
    "integers of 32 bits": (tiff(GRAY.astype("<u4").tobytes(), 32), ["of 32 bits", "'I'"]),
    "16 bits with a sign": (
        tiff(GRAY.astype("<i2").tobytes(), 16, sample_format=2),
        ["with a sign", "'I'"],
    ),
    "8 bits with a sign": (
        tiff(BYTES[:, :, 0].tobytes(), 8, sample_format=2),
        ["with a sign", "'L'"],
    ),
    "a float map": (b"Pf\n12 12\n-1.0\n" + GRAY.astype("<f4").tobytes(), ["floats", "'F'"]),
    "floats of 64 bits": (
        tiff(GRAY.astype("<f8").tobytes(), 64, sample_format=3),
        ["whose pixel type Pillow does not read"],
    ),
}


@pytest.mark.parametrize("name", NO_RANGE)
def test_samples_without_a_range_are_refused_by_name(name, tmp_path):
    content, parts = NO_RANGE[name]
    path = tmp_path / "odd.tif"
    path.write_bytes(content)
    refused(path, *parts)


MODES = {
    "1": ("png", as_gray(BYTES[:, :, 0] // 128 * 255)),
    "L": ("png", as_gray(BYTES[:, :, 0])),
    "LA": ("png", as_gray(BYTES[:, :, 0])),
    "RGB": ("png", BYTES[:, :, :3]),
    "RGBA": ("png", BYTES[:, :, :3]),
    "RGBX": ("tif", BYTES[:, :, :3]),
    "YCbCr": ("tif", None),
    "LAB": ("tif", None),
    "CMYK": ("tif", None),
    "CMYK ": ("jpg", None),
    "L ": ("jpg", None),
    "RGB ": ("jpg", None),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name, tmp_path):
    """What has no exact values here is held to Pillow's conversion of the picture that it is."""
    mode, (suffix, expected) = name.strip(), MODES[name]
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = BYTES[:, :, 0] if bands == 1 else BYTES[:, :, :bands]
    if mode == "1":
        image = Image.fromarray(pixels // 128 * 255).convert("1", dither=Image.Dither.NONE)
    else:
        image = Image.frombytes(mode, (SIDE, SIDE), np.ascontiguousarray(pixels).tobytes())
    path = tmp_path / f"image.{suffix}"
    image.save(path, quality=90)
    if expected is None:
        with Image.open(path) as again:
            expected = np.asarray(again.convert("RGB"))
        assert len(np.unique(expected)) > 20
    assert np.array_equal(both_ways(path), expected)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
def test_palettes_lose_their_transparency_without_a_warning(transparency, suffix, tmp_path):
    palette = np.random.default_rng(2).integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(BYTES[:, :, 0])
    image.putpalette(palette.tobytes())
    path = tmp_path / f"image.{suffix}"
    given = {} if transparency is None or suffix == "bmp" else {"transparency": transparency}
    if suffix == "gif" and isinstance(transparency, bytes):
        given = {"transparency": 3}
    image.save(path, **given)
    assert np.array_equal(both_ways(path), palette[BYTES[:, :, 0]])


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_read(suffix, tmp_path):
    first, second = Image.new("RGB", (SIDE, SIDE), (200, 0, 0)), Image.new("RGB", (SIDE, SIDE))
    path = tmp_path / f"image.{suffix}"
    more = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=[second], **more)
    assert np.array_equal(both_ways(path), np.asarray(first))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pixels_stay_as_stored_whatever_exif_says(suffix, tmp_path):
    """As torchvision's own loader of image folders leaves them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = Image.fromarray(np.ascontiguousarray(BYTES[:, :, :3]))
    for name, more in (("plain", {}), ("turned", {"exif": exif})):
        whole.save(tmp_path / f"{name}.{suffix}", lossless=True, **more)
    turned = both_ways(tmp_path / f"turned.{suffix}")
    assert np.array_equal(turned, both_ways(tmp_path / f"plain.{suffix}"))


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "folder.png", "device.png"):
        refused(tmp_path / name, "is no file")
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    for name in ("lost.png", "self.png"):
        refused(tmp_path / name, "is a link that leads nowhere")
    refused(tmp_path / "none.png", "No such file")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(png(GRAY[:, :, None], 0))
    monkeypatch.setattr(image_files.np, "fromfile", refuse)
    monkeypatch.setattr(image_files.Image, "open", refuse)
    refused(tmp_path / "a.png", "cannot be read: Permission denied")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data", 32, count=6)


TWICE = {
    "its class": ("train/ant/more", "."),
    "the part": ("train/ant/more", ".."),
    "the data": ("train/ant/more", "../.."),
    "everything": ("train/ant/more", "/"),
    "a class that is the part": ("train/all", "."),
    "a class that is the data": ("train/all", ".."),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_link_to_a_folder_above_is_named(name, folder, capsys):
    link, target = TWICE[name]
    (folder / link).symlink_to(target)
    with pytest.raises(UserError, match=f"{link}' leads to .*would count twice") as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)
    assert main(["eval", "--arch", "resnet20", "--weights", "x.pth", "--data", str(folder)]) == 2
    assert "would count twice" in capsys.readouterr().err


def test_links_in_a_ring_and_links_to_a_sibling_count_twice_too(folder):
    (folder / "train/ant/more").symlink_to("../badger")
    assert open_folder(folder).train_size == 18
    (folder / "train/badger/more").symlink_to("../ant")
    with pytest.raises(UserError, match="would count twice"):
        open_folder(folder)
    (folder / "train/badger/more").unlink()
    (folder / "train/ant/again").symlink_to("../badger")
    with pytest.raises(UserError, match=r"ant/more' leads to '.*ant/again'"):
        open_folder(folder)


def test_a_loop_outside_of_the_data(folder, tmp_path):
    write_images(tmp_path / "other" / "deep", 2, 32)
    (folder / "train/ant/more").symlink_to(tmp_path / "other" / "deep")
    assert open_folder(folder).train_size == 14
    (tmp_path / "other" / "deep" / "up").symlink_to("..")
    with pytest.raises(UserError, match=r"up/deep' leads to '.*ant/more'"):
        open_folder(folder)


def test_links_to_files_and_folders_elsewhere_are_images_like_others(folder, tmp_path):
    write_images(tmp_path / "elsewhere", 3, 32)
    (folder / "train/ant/more").symlink_to(tmp_path / "elsewhere")
    (folder / "train/ant/one.jpg").symlink_to(tmp_path / "elsewhere" / "000.jpg")
    assert open_folder(folder).train_size == 16


@pytest.mark.parametrize("link", ["train/ant/more", "train/cat", "val"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_folder_that_is_lost_is_named(link, target, folder):
    if link == "val":
        (folder / "val").rename(folder / "elsewhere")
    path = folder / link
    path.symlink_to(path.name if target == "itself" else "nowhere")
    with pytest.raises(UserError, match=f"{link}' .*leads nowhere"):
        open_folder(folder)


def test_an_image_that_is_lost_is_named_or_left_out(folder):
    (folder / "train/ant/lost.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "train/badger/pipe.jpg")
    with pytest.raises(UserError, match=r"(lost|pipe)\.jpg"):
        list(open_folder(folder).train(0))
    opened = open_folder(folder, skip_bad_images=True, batch_size=14)
    assert sum(len(labels) for _, labels in opened.train(0)) == 12
    assert len(opened.skipped()) == 2


@pytest.mark.parametrize("name", ["validation", "Valid", "dev", "Val", "holdout"])
def test_a_part_of_another_name_is_noted(name, folder, capsys):
    (folder / "val").rename(folder / name)
    (folder / "annotations").mkdir()
    (note,) = open_folder(folder).notes
    assert f"{name}' is passed over" in note and "held out of train/" in note
    (folder / "val").symlink_to(name)
    (note,) = open_folder(folder).notes
    assert f"{name}' is passed over" in note and "held out" not in note
    weights = folder / "weights.pth"
    torch.save(architectures.create_model("resnet20", 2).state_dict(), weights)
    command = ["eval", "--arch", "resnet20", "--weights", str(weights), "--data", str(folder)]
    assert main(command) == 0
    assert f"{name}' is passed over" in capsys.readouterr().err


def test_a_run_says_what_is_passed_over(folder, tmp_path, capsys):
    (folder / "val").rename(folder / "validation")
    fit = ["fit", "--arch", "resnet20", "--data", str(folder), "--batch-size", "5", "--epochs", "1"]
    assert main([*fit, "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    assert "/validation' is passed over" in capsys.readouterr().out


def test_parts_of_the_usual_names_are_not_noted(tmp_path):
    root = make_folder(tmp_path / "data", 32, parts=("train", "val", "test"), count=6)
    assert open_folder(root).notes == ()


def test_a_folder_of_other_parts_alone_says_what_it_holds(folder):
    (folder / "val").rename(folder / "validation")
    (folder / "train").rename(folder / "training")
    with pytest.raises(UserError, match=r"it holds training/; it holds validation/"):
        open_folder(folder)


def test_images_of_other_kinds_are_noted(folder):
    write_images(folder / "train" / "ant" / "more", 2, 32, kind="gif")
    opened = open_folder(folder)
    assert opened.train_size == 12
    (note,) = opened.notes
    assert "2 images, such as" in note and "000.gif" in note and ".webp" in note
    (folder / "train/ant/more/000.gif").unlink()
    (note,) = open_folder(folder).notes
    assert note.startswith("image ") and "001.gif' is passed over" in note
    (folder / "train" / "cat").mkdir()
    write_images(folder / "train" / "cat", 1, 32, kind="gif")
    with pytest.raises(UserError, match=r"cat' holds no images but '.*cat/000.gif'"):
        open_folder(folder)
