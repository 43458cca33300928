"""The machine and the versions that stand beside every table."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def describe() -> dict[str, str]:
    """Return processor, cores, memory and versions, by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "torch threads": str(torch.get_num_threads()),
        "instruction set": _instruction_set(),
        "C library": " ".join(platform.libc_ver()),
        "compiler": _compiler(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "torchao": _version("torchao"),
        "micronet": revision(),
    }


def describe_device(device: str) -> dict[str, str]:
    """Return the device with its driver, and the versions of what makes its kernels, by name."""
    found = {
        "device": device,
        "triton": _version("triton"),
        "nvcc": _line_of("release", "nvcc", "--version"),
    }
    if device == "cpu":
        return found
    properties = torch.cuda.get_device_properties(0)
    about = f"{properties.multi_processor_count} SMs, {properties.total_memory / 2**30:.0f} GiB"
    driver = _line_of("", "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        **found,
        "device": f"{properties.name}, sm_{properties.major}{properties.minor}, {about}",
        "driver": driver,
        "CUDA of torch": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def _line_of(word: str, program: str, *arguments: str) -> str:
    """Return the first line with a word in it that a program prints."""
    found = shutil.which(program)
    if found is None:
        return f"no {program}"
    said = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    lines = [line for line in said.stdout.splitlines() if word in line]
    return lines[0] if lines else f"{program} does not say"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _instruction_set() -> str:
    try:
        from micronet_kernels import _C
    except ModuleNotFoundError:
        return "the extension is not built"
    return _C.instruction_set()


def _compiler() -> str:
    """Return the compiler that torch.compile calls."""
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        return f"no {name}"
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.partition("\n")[0]


def revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "not a git checkout"
