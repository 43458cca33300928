"""The set-up: which CUDA toolkit is chosen and why, the locked versions, what gets packaged."""

import shutil
import subprocess
import tomllib

import pytest
import setuptools
import torch
from packaging.requirements import Requirement

import micronet_kernels
from paths import ROOT

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


@pytest.fixture(scope="module")
def build():
    """The names of setup.py, and under "asked" what it asks of setuptools."""
    with pytest.MonkeyPatch.context() as patch:
        asked = {}
        patch.setattr(setuptools, "setup", asked.update)
        names = {"__name__": "setup", "__file__": str(ROOT / "setup.py")}
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), names)
    return {**names, "asked": asked}


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def toolkit(root, release):
    """Write a toolkit whose nvcc answers the two questions that setup.py asks."""
    program(
        root / "bin" / "nvcc",
        f"case $1 in --version) echo 'Cuda compilation tools, release {release}, V{release}.1';;\n"
        f"*) echo '#$ TOP={root}/bin/..' >&2;; esac\n",
    )
    return root


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No toolkit anywhere: no variable, and a search path with one empty folder."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    folder = tmp_path / "search"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_no_nvcc_leaves_cuda_out(build, bare):
    assert build["cuda_choice"]() == (None, "left out: no nvcc was found")


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_variable_beats_search_path(build, bare, tmp_path, monkeypatch, variable):
    wanted = toolkit(tmp_path / "wanted", "13.0")
    other = toolkit(tmp_path / "other", "13.0")
    (bare / "nvcc").symlink_to(other / "bin" / "nvcc")
    monkeypatch.setenv(variable, str(wanted))
    assert build["cuda_root"]() == wanted


def test_variable_without_nvcc_is_passed_over(build, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    assert build["cuda_root"]() is None


def test_wrapper_leads_to_its_toolkit(build, bare, tmp_path):
    real = toolkit(tmp_path / "real", "13.0")
    program(bare / "nvcc", f'exec {real}/bin/nvcc "$@"\n')
    assert build["cuda_root"]() == real


@pytest.mark.parametrize("release", ["12.8", "14.0", "1.3"])
def test_another_major_version_leaves_cuda_out(build, bare, tmp_path, monkeypatch, release):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "kit", release)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    root, sentence = build["cuda_choice"]()
    assert root is None
    assert release in sentence and "13.0" in sentence


def test_torch_without_cuda_leaves_cuda_out(build, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "kit", "13.0")))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert build["cuda_choice"]() == (None, "left out: this torch is built without CUDA")


def test_the_same_major_version_compiles(build, bare, tmp_path, monkeypatch):
    kit = toolkit(tmp_path / "kit", "13.2")
    monkeypatch.setenv("CUDA_HOME", str(kit))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("MICRONET_CUDA_ARCHITECTURES", raising=False)
    root, sentence = build["cuda_choice"]()
    assert root == kit
    assert "sm_80" in sentence and "sm_90" in sentence and "13.2" in sentence


def test_the_devices_that_kernels_are_made_for_can_be_chosen(build, monkeypatch):
    name = "MICRONET_CUDA_ARCHITECTURES"
    for asked, found in (("90", ["90"]), ("80, 90a", ["80", "90a"]), ("", ["80", "90"])):
        monkeypatch.setenv(name, asked)
        assert build["architectures"]() == found
    for wrong in ("sm_90", "9.0", "90,"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(SystemExit, match=f"{name} is '{wrong}'; it is such as 90 or 80,90"):
            build["architectures"]()


def test_every_package_is_packaged(build):
    asked = build["asked"]
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in asked["package_dir"].items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(asked["packages"]) == found


def test_the_module_is_built():
    assert "native" in micronet_kernels.available_backends()


def test_locked_versions_satisfy_the_declared_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"] + project["build-system"]["requires"]
    extras = project["project"]["optional-dependencies"]
    for extra in extras.values():
        asked += extra
    for requirement in map(Requirement, asked):
        if requirement.name == "micronet":
            # An extra that takes in others.
            assert requirement.extras <= extras.keys()
            continue
        assert requirement.name in PINS
        assert requirement.specifier.contains(PINS[requirement.name]), requirement


def test_old_python_gets_one_sentence(tmp_path):
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "csrc").mkdir()
    old = program(tmp_path / "old-python", "exit 1\n")
    command = ["make", "-C", str(tmp_path), "setup", f"PYTHON={old}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"micronet needs Python 3.11 or newer, {old} is older" in done.stdout
    assert not (tmp_path / ".venv").exists()
