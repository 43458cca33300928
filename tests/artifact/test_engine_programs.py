"""Programs on the engine's C API: the page's example, and the command micronet-run."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import grey_images
from micronet.artifact import engine as engines
from micronet.artifact import writer
from micronet.artifact.engine import Engine
from micronet.artifact.format.document import About
from packed_networks import content_of, network
from paths import ROOT

PAGE = (ROOT / "docs" / "engine.md").read_text()
ENGINE = ROOT / "csrc" / "engine"
SHAPE = (3, 16, 16)
# Numbers with which one rule of normalization has other bits than another.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


HAS_JPEG = Path("/usr/include/jpeglib.h").exists()
needs_jpeg = pytest.mark.skipif(not HAS_JPEG, reason="libjpeg's header is not here")


def run(*command, code=0, environment=None):
    others = {k: v for k, v in os.environ.items() if k != "MICRONET_CPU"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=others | (environment or {}),
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the library under the name that programs look for, of programs and of a file."""
    folder = tmp_path_factory.mktemp("engine")
    (kernels,) = find_spec("micronet_kernels").submodule_search_locations
    for name in ("libmicronet_engine.so", "libmicronet_engine.so.1"):
        shutil.copy(Path(kernels, "libmicronet_engine.so"), folder / name)
    (example,) = re.findall(r"^```c\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (folder / "example.c").write_text(example)
    link = ["-Wall", "-Wextra", "-Werror"]
    link += [f"-L{folder}", "-lmicronet_engine", f"-Wl,-rpath,{folder}"]
    run("cc", folder / "example.c", f"-I{ENGINE}", *link, "-o", folder / "example")
    built = ["c++", "-std=c++20", *sorted((ENGINE / "command").glob("*.cpp"))]
    built += [f"-I{ROOT / 'csrc'}", *link, "-o"]
    run(*built, folder / "micronet-run")
    if HAS_JPEG:
        run(*built, folder / "with-jpeg", "-DMICRONET_JPEG", "-ljpeg")
    torch.manual_seed(0)
    about = About("micro", tuple(f"class {i}" for i in range(10)), MEAN, STD)
    file = writer.pack_network(network("efficientnet-micro", 16), SHAPE, about)
    (folder / "model.safetensors").write_bytes(content_of(file))
    return folder


def values(text):
    return np.array([float.fromhex(line) for line in text.split()], np.float32)


def test_the_example_of_the_page(folder):
    found = values(run(folder / "example", folder / "model.safetensors"))
    wanted = Engine(folder)(np.zeros((1, *SHAPE), np.float32))[0]
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))
    assert run(folder / "example", code=2) == "which file?\n"
    assert "cannot be read" in run(folder / "example", folder / "none", code=2)


def test_images_of_every_kind(folder, rng):
    pixels = torch.randint(256, (16, 16, 3), generator=rng, dtype=torch.uint8).numpy()
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    image = grey_images.normalized(planes, (MEAN, STD)).numpy()
    (folder / "a.ppm").write_bytes(b"P6 # a comment\n16 16\n255\n" + pixels.tobytes())
    (folder / "a.u8").write_bytes(pixels.tobytes())
    (folder / "a.f32").write_bytes(image.tobytes())
    wanted = Engine(folder)(image[None])[0]
    program = folder / "micronet-run"
    for name in ("a.ppm", "a.u8", "a.f32"):
        for options in ((), ("--threads", "2"), ("--instruction-set", "baseline")):
            found = values(run(program, folder, folder / name, "--values", *options))
            assert np.array_equal(found.view(np.int32), wanted.view(np.int32)), (name, options)
    lines = run(program, folder, folder / "a.ppm", "--top", "3").splitlines()
    order = np.argsort(-wanted, kind="stable")[:3]
    assert [line[12:] for line in lines[1:]] == [f"class {i}" for i in order]


def classes_of(text):
    return [line[12:] for line in text.splitlines()[1:]]


@needs_jpeg
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_a_jpeg_file_has_the_pixels_that_pillow_decodes(folder, rng, options):
    coarse = torch.randint(256, (5, 5, 3), generator=rng, dtype=torch.uint8).numpy()
    photo = Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC)
    for name, image in (("a.jpg", photo), ("grey.jpeg", photo.convert("L"))):
        image.save(folder / name, "JPEG", quality=80, **options)
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))[None]
        wanted = Engine(folder).run_pixels(pixels)[0]
        found = values(run(folder / "with-jpeg", folder, folder / name, "--values"))
        assert np.array_equal(found.view(np.int32), wanted.view(np.int32))


@needs_jpeg
def test_jpeg_files_that_are_not_the_networks(folder):
    photo = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    photo.save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[:-40])
    (folder / "none.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    photo.resize((8, 16)).save(folder / "small.jpg")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    for name, sentence in (
        ("cut.jpg", "cut.jpg: cannot be decoded: Premature end of JPEG file"),
        ("none.jpg", "none.jpg: cannot be decoded: Not a JPEG file"),
        ("empty.jpg", "empty.jpg: cannot be decoded: Empty input file"),
        ("small.jpg", "small.jpg: is 8 x 16, but the network takes 16 x 16"),
        ("cmyk.jpg", "cmyk.jpg: has other colors than red, green and blue"),
    ):
        said = run(folder / "with-jpeg", folder, folder / name, code=2)
        assert sentence in said and said.count("\n") == 1


def test_labels(folder):
    (folder / "black.u8").write_bytes(bytes(16 * 16 * 3))
    program = folder / "micronet-run", folder, folder / "black.u8", "--top", "10"
    order = [int(name.split()[1]) for name in classes_of(run(*program))]
    (folder / "labels").write_text("".join(f"label of {i}\r\n" for i in range(10)))
    found = classes_of(run(*program, "--labels", folder / "labels"))
    assert found == [f"label of {i}" for i in order]
    (folder / "few").write_text("one\ntwo\n")
    said = run(*program, "--labels", folder / "few", code=2)
    assert "few: has 2 labels, but the network has 10 outputs" in said
    assert "none: cannot be read" in run(*program, "--labels", "none", code=2)


@pytest.mark.parametrize("name", ["baseline", "", None])
def test_the_environment_names_the_instruction_set(folder, name):
    """As of the kernels; see tests/kernels/test_instruction_sets.py."""
    best, bench = engines.instruction_set(), (folder / "micronet-run", folder, "--bench", "0.01")
    chosen = name or best
    environment = {"MICRONET_CPU": name} if name is not None else {}
    assert run(*bench, environment=environment).startswith(f"{chosen}, threads 1")
    for other in ("baseline", best):
        said = run(*bench, "--instruction-set", other, environment=environment)
        assert said.startswith(f"{other}, threads 1")
    code = "from micronet.artifact import engine; print(engine.instruction_set())"
    assert run(sys.executable, "-c", code, environment=environment).strip() == chosen


def test_a_name_in_the_environment_that_there_is_not(folder):
    sse9 = {"MICRONET_CPU": "sse9"}
    sentence = "MICRONET_CPU: there is no instruction set 'sse9' here; there are baseline"
    said = run(folder / "micronet-run", folder, environment=sse9, code=2)
    assert said.startswith(f"micronet-run: {sentence}") and said.count("\n") == 1
    code = f"import micronet; micronet.Engine({str(folder)!r})"
    assert sentence in run(sys.executable, "-c", code, environment=sse9, code=1)
    # What the command line names is obeyed all the same.
    run(folder / "micronet-run", folder, "--instruction-set", "baseline", environment=sse9)


def test_times(folder):
    program = folder / "micronet-run"
    assert "input [3, 16, 16], 10 outputs, arena of" in run(program, folder)
    said = run(program, folder, "--bench", "0.05", "--batch", "2", "--profile")
    assert "(conv)" in said and re.search(r"threads 1, batch 2: median [\d.]+ ms", said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "usage: micronet-run"),
        (("none",), "none: cannot be read: No such file or directory"),
        ((".", "--threads", "0"), "--threads must be a number of 1 to 256"),
        ((".", "--bench"), "--bench must be a number of 0 to 86400"),
        ((".", "--fast"), "unknown option --fast"),
        ((".", "--instruction-set", "mmx"), "this machine has no instruction set mmx"),
        ((".", "none.ppm"), "none.ppm: cannot be read"),
        ((".", "model.safetensors"), "is none of .ppm, .pgm, .u8, .jpg, .jpeg and .f32"),
        ((".", "a.jpg"), "a.jpg: is a JPEG file, but this command was built without libjpeg"),
        ((".", "--labels"), "--labels must be a file"),
        ((".", "wrong.u8"), "wrong.u8: has 5 bytes of pixels, but the network takes 768"),
        ((".", "wrong.f32"), "wrong.f32: has 5 bytes, but the network takes 3072"),
        ((".", "small.ppm"), "small.ppm: is 2 x 1, but the network takes 16 x 16"),
        ((".", "deep.ppm"), "deep.ppm: has 65535 as white, but must have 255"),
        ((".", "gray.ppm"), "gray.ppm: must begin with P6 for three channels"),
        ((".", "cut.ppm"), "cut.ppm: its header lacks a number"),
        ((".", "nan.f32"), "an image has a value that is not finite"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, sentence, folder):
    for name in ("wrong.u8", "wrong.f32", "a.jpg"):
        (folder / name).write_bytes(b"12345")
    (folder / "small.ppm").write_bytes(b"P6\n2 1\n255\n123456")
    (folder / "deep.ppm").write_bytes(b"P6\n16 16\n65535\n")
    (folder / "gray.ppm").write_bytes(b"P5\n16 16\n255\n" + bytes(256))
    (folder / "cut.ppm").write_bytes(b"P6\n16 #")
    (folder / "nan.f32").write_bytes(np.full(SHAPE, np.nan, np.float32).tobytes())
    done = subprocess.run(
        [folder / "micronet-run", *arguments], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr
