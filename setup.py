"""Builds micronet_kernels._C and the engine's library with CMake; micronet_kernels is kernels/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
ENGINE = "libmicronet_engine.so"
# A module with a device of torch's that is the emulator of the kernels' tests.
EMULATED = os.environ.get("MICRONET_EMULATED_DEVICE") == "1"


def tool(name: str) -> str:
    """Return a program's path, the interpreter's own environment first."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        raise SystemExit(f"building micronet needs {name}: pip install {name}")
    return found


def cuda_root() -> Path | None:
    """Return the CUDA toolkit's folder: CUDA_HOME, CUDA_PATH, or that of the nvcc on PATH."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        root = os.environ.get(variable)
        if root and (Path(root) / "bin" / "nvcc").exists():
            return Path(root)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    # The nvcc on PATH may be a wrapper elsewhere; its dry run names the real folder.
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else None


def architectures() -> list[str]:
    """Return the compute capabilities that kernels are made for: 80 and 90, or those asked for."""
    asked = os.environ.get("MICRONET_CUDA_ARCHITECTURES") or "80,90"
    found = [number.strip() for number in asked.split(",")]
    if not all(re.fullmatch(r"[1-9]\d+[a-z]?", number) for number in found):
        raise SystemExit(f"MICRONET_CUDA_ARCHITECTURES is {asked!r}; it is such as 90 or 80,90")
    return found


def cuda_choice() -> tuple[Path | None, str]:
    """Return the toolkit to compile with, or None, and the sentence that says why."""
    import torch

    if EMULATED:
        return None, "run on the host: a module for tests alone"
    root = cuda_root()
    if root is None:
        return None, "left out: no nvcc was found"
    if torch.version.cuda is None:
        return None, "left out: this torch is built without CUDA"
    said = subprocess.run(
        [str(root / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=True
    )
    release = re.search(r"release (\d+)\.(\d+)", said.stdout)
    if release is None or release.group(1) != torch.version.cuda.split(".")[0]:
        have = release.group(0) if release else "unknown"
        return None, f"left out: nvcc is {have}, torch is built for CUDA {torch.version.cuda}"
    devices = " and ".join(f"sm_{number}" for number in architectures())
    return root, f"compiled for {devices} with nvcc {release.group(0)}"


def put(built: Path, target: Path) -> None:
    """Rename a copy into place: a process that has the old file mapped keeps it whole."""
    beside = target.with_name(target.name + ".tmp")
    shutil.copyfile(built, beside)
    os.replace(beside, target)


class CMakeBuild(build_ext):
    """Configures and builds the module in ``build/``, then puts it where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        from torch.utils import cpp_extension

        root, sentence = cuda_choice()
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        kind = "emulated" if EMULATED else "module"
        build = BUILD / f"{kind}-{sys.implementation.cache_tag}"
        options = {
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "MICRONET_PYTHON": "ON",
            "MICRONET_CUDA": "ON" if root else "OFF",
            "MICRONET_EMULATED_DEVICE": "ON" if EMULATED else "OFF",
            "MICRONET_WERROR": os.environ.get("MICRONET_WERROR") or "ON",
            "TORCH_INCLUDE": ";".join(cpp_extension.include_paths()),
            "TORCH_LIBRARY_DIR": ";".join(cpp_extension.library_paths()),
            "PYTHON_INCLUDE": sysconfig.get_paths()["include"],
            "MODULE_SUFFIX": suffix,
        }
        if root:
            options["CMAKE_CUDA_COMPILER"] = str(root / "bin" / "nvcc")
            options["MICRONET_CUDA_ARCHITECTURES"] = ";".join(architectures())
            options["CUDAToolkit_ROOT"] = str(root)
        flags = [f"-D{key}={value}" for key, value in options.items()]
        cmake = tool("cmake")
        subprocess.run([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *flags], check=True)
        subprocess.run([cmake, "--build", build], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        put(build / f"_C{suffix}", target)
        put(build / ENGINE, target.with_name(ENGINE))
        # pip hides what a build prints; the Makefile shows this line.
        if not EMULATED:
            (BUILD / "cuda.txt").write_text(f"CUDA kernels {sentence}\n")
        print(f"CUDA kernels {sentence}")

    def copy_extensions_to_source(self) -> None:
        """Take the engine along where the module goes to the checkout: ``pip install -e``."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            built = Path(self.build_lib, *ext.name.split(".")).with_name(ENGINE)
            put(built, ROOT / "kernels" / ENGINE)


setup(
    ext_modules=[Extension("micronet_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    packages=[
        *find_packages(include=["micronet", "micronet.*"]),
        "micronet_kernels",
        *(f"micronet_kernels.{name}" for name in find_packages("kernels")),
    ],
    package_data={
        "micronet": ["py.typed"],
        "micronet.recipes": ["*.yaml"],
        "micronet_kernels": ["py.typed"],
    },
    package_dir={"micronet": "micronet", "micronet_kernels": "kernels"},
)
