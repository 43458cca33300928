"""What a bare machine needs first: missing packages from wheels, and the compiled extension."""

import os
import sys
from pathlib import Path

from benchmarks.gpu import processes
from benchmarks.gpu.processes import FINISHED, Outcome
from benchmarks.harness.machine import ROOT
from micronet.utils.errors import UserError


def site_of(scratch: str | Path) -> Path:
    """Return the folder for packages of wheels, and for the kernels under their own name.

    It goes with the run: the Python of the machine stays as it is.
    """
    return Path(scratch) / "site"


def environment(device: str, site: Path) -> dict[str, str]:
    """Return the environment of all processes: the checkout and what it lacks can be imported.

    Where the CPU is asked for, they see no device: commands take the one that they find.
    """
    paths = [str(ROOT), str(site)]
    if before := os.environ.get("PYTHONPATH"):
        paths.append(before)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **hidden}


def link_kernels(site: Path) -> None:
    """Give kernels/ the name that it is imported by."""
    site.mkdir(parents=True, exist_ok=True)
    (site / "micronet_kernels").symlink_to(ROOT / "kernels")


def wheels_in(folder: Path | None) -> list[str]:
    """Return the wheels of a folder, none without a folder.

    Raises UserError where the folder holds none.
    """
    if folder is None:
        return []
    found = sorted(str(path) for path in folder.glob("*.whl"))
    if not found:
        raise UserError(f"--wheels {str(folder)!r} holds no wheel; make gpu-wheels makes them")
    return found


def prepare(
    wheels: list[str], compiles: bool, device: str, log: Path, limit: float, site: Path
) -> Outcome:
    """Install the wheels and compile the extension, within `limit` seconds in all."""
    link_kernels(site)
    python = sys.executable
    install = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade", "--target"]
    commands = [[*install, str(site), *wheels]] if wheels else []
    if compiles:
        commands.append([python, "setup.py", "build_ext", "--inplace"])
    # A compiler that is newer than ours may warn of more.
    env = {**environment(device, site), **architecture(device), "MICRONET_WERROR": "OFF"}
    seconds = 0.0
    for command in commands:
        done = processes.run(command, log, limit - seconds, env)
        seconds += done.seconds
        if done.status != FINISHED:
            return Outcome(done.status, seconds, done.note)
    return Outcome(FINISHED, seconds, "" if compiles else "nothing was compiled: --no-build")


def architecture(device: str) -> dict[str, str]:
    """Return the variable that has kernels made for this machine's device alone."""
    import torch

    if device == "cpu":
        return {}
    major, minor = torch.cuda.get_device_capability(0)
    return {"MICRONET_CUDA_ARCHITECTURES": f"{major}{minor}"}
