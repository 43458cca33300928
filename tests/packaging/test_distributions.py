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
    options = ["--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT)
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


# A tenth of the steps, of as many images.
DEMO = """\
import sys
from micronet import demo
for words in demo.QUICK.values():
    words += ["--batch-size", "250"]
sys.exit(demo.main())
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
    code = "import micronet, micronet_kernels as k; print(micronet.__file__, k.__file__)"
    places = run(sys.executable, "-c", code, **installed).split()
    assert all(Path(place).is_relative_to(installed["cwd"] / "site") for place in places)
    code = "import micronet_kernels as k; print(k.available_backends())"
    assert "native" in run(sys.executable, "-c", code, **installed)
    code = "from micronet.artifact import engine; print(engine.instruction_set())"
    assert run(sys.executable, "-c", code, **installed).strip() in _C.instruction_sets()


def test_the_demo_runs_to_its_table(installed):
    text = run(sys.executable, "-c", DEMO, "--quick", "--out", "demo", **installed)
    rows = [line for line in text.splitlines() if line.startswith(("| fit", "| prune", "| qat"))]
    assert len(rows) == 3
    assert (installed["cwd"] / "demo" / "qat" / "best.safetensors").exists()


def test_the_console_command_is_there(wheel):
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt"))
    assert "micronet = micronet.__main__:main" in zipfile.ZipFile(wheel).read(name).decode()


def test_the_source_distribution_builds_the_same(tmp_path):
    code = (
        "from setuptools.build_meta import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
    )
    name = run(sys.executable, "-c", code, tmp_path, cwd=ROOT).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        held = {member.partition("/")[2] for member in archive.getnames()}
    wanted = tracked("csrc", "kernels", "micronet", "tests")
    wanted |= {"CMakeLists.txt", "setup.py", "pyproject.toml", "constraints.txt", "Makefile"}
    assert wanted <= held, sorted(wanted - held)[:10]
