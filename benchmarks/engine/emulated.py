"""The engine cross-compiled for 64-bit ARM, run on this machine by an emulator."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

INSTRUCTION_SETS = ("neon", "neondot")
# The emulator's processor that has all instructions, with the libraries of Debian's cross compiler.
EMULATOR = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "max")
# An image takes some thousand times as long as on a processor.
IMAGES = 4


def logits(program: Path, packed: Path, batch: Tensor, instruction_set: str) -> Tensor:
    """Return the logits of a packed network's first ``IMAGES`` images, ``[IMAGES, classes]``.

    Args:
        program: the cross-compiled ``micronet-run``.
        packed: the folder of the packed network.
        batch: float32 images ``[N, C, H, W]``.
        instruction_set: one of ``INSTRUCTION_SETS``.

    Raises:
        RuntimeError: the program failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.f32" for number in range(len(batch[:IMAGES]))]
        for file, image in zip(files, batch, strict=False):
            file.write_bytes(image.contiguous().numpy().tobytes())
        command = [*EMULATOR, program, packed, *files, "--values"]
        command += ["--instruction-set", instruction_set]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    values = np.array([float.fromhex(line) for line in done.stdout.split()], np.float32)
    return torch.from_numpy(values.reshape(len(files), -1))
