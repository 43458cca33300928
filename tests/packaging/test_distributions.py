"""The wheel and the source distribution: complete, and usable outside of a checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from micronet_kernels import _C
from paths import ROOT

pytestmark = pytest.mark.slow


BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"


def run(*command, **options):
    """Run a command; its output, or a failure that shows it."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout; what its build has compiled already is not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    # The step of pip's that builds; those before it start two more processes to ask what it needs.
    run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=ROOT)
    (path,) = folder.glob("micronet-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment variables and the folder of an installation beside no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--quiet", "--target", folder / "site"]
    run(sys.executable, "-m", "pip", "install", *options, wheel)
    variables = {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1"}
    return {"env": variables, "cwd": folder}


# A tenth of the steps, of as many images, which are a quarter as large.
DEMO = """\
import sys
from micronet import demo
demo.QUICK["fit"][-1] = "8"
for words in demo.QUICK.values():
    words += ["--batch-size", "250"]
sys.exit(demo.main())
"""


PLACES = """\
from micronet.artifact import engine
print(engine.instruction_set())
import micronet, micronet_kernels
print(micronet_kernels.available_backends())
print(micronet.__file__, micronet_kernels.__file__, engine.__file__, sep="\\n")
"""


def tracked(*folders):
    """The files of folders that belong to the project."""
    listed = run("git", "ls-files", *folders, cwd=ROOT).splitlines()
    return {name for name in listed if not (ROOT / name).is_symlink()}


def test_the_wheel_holds_every_module_recipe_and_marker(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = tracked("micronet") | {
        name.replace("kernels/", "micronet_kernels/", 1) for name in tracked("kernels")
    }
    assert wanted and wanted <= held
    assert [name for name in held if name.startswith("micronet_kernels/_C")]
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/"))]


def test_it_is_the_installed_one_that_runs(installed):
    instructions, backends, *places = run(sys.executable, "-c", PLACES, **installed).splitlines()
    assert instructions in _C.instruction_sets()
    assert "native" in backends
    assert all(Path(place).is_relative_to(installed["cwd"] / "site") for place in places)
    assert len(places) == 3


def test_the_demo_runs_to_its_table(installed):
    text = run(sys.executable, "-c", DEMO, "--quick", "--out", "demo", **installed)
    rows = [line for line in text.splitlines() if line.startswith(("| fit", "| prune", "| qat"))]
    assert len(rows) == 3
    assert (installed["cwd"] / "demo" / "qat" / "best.safetensors").exists()


def test_the_console_command_is_there(wheel):
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt"))
    assert "micronet = micronet.__main__:main" in zipfile.ZipFile(wheel).read(name).decode()


def test_the_source_distribution_builds_the_same(tmp_path):
    name = run(sys.executable, "-c", BUILD.format("sdist"), tmp_path, cwd=ROOT).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        held = {member.partition("/")[2] for member in archive.getnames()}
    wanted = tracked("csrc", "kernels", "micronet", "tests")
    wanted |= {"CMakeLists.txt", "setup.py", "pyproject.toml", "constraints.txt", "Makefile"}
    assert wanted <= held, sorted(wanted - held)[:10]
