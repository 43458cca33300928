"""Programs on the engine's C API: the page's example, and the command micronet-run."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from micronet.artifact import writer
from micronet.artifact.engine import Engine
from micronet.artifact.format.document import About
from packed_networks import content_of, network
from paths import ROOT

PAGE = (ROOT / "docs" / "engine.md").read_text()
ENGINE = ROOT / "csrc" / "engine"
SHAPE = (3, 16, 16)
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 1.0)


def run(*command, code=0):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
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
    sources = sorted((ENGINE / "command").glob("*.cpp"))
    run("c++", "-std=c++20", *sources, f"-I{ROOT / 'csrc'}", *link, "-o", folder / "micronet-run")
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
    image = (pixels.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    image = np.ascontiguousarray(image.transpose(2, 0, 1))
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
        ((".", "model.safetensors"), "is none of .ppm, .pgm, .u8 and .f32"),
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
    for name in ("wrong.u8", "wrong.f32"):
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
