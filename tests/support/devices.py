"""The device of tests that need one: the emulated one where it is loaded, else that of CUDA."""

import torch

from benchmarks.harness import emulated_device
from micronet_kernels import dispatch

EMULATED = emulated_device.NAME in dispatch.TABLE["native"]
IS_HERE = EMULATED or torch.cuda.is_available()
# Without either, tests that name it are collected and left out.
DEVICE = torch.device(emulated_device.NAME if EMULATED else "cuda")


def on_the_device(value):
    """Returns a tensor's copy there, strides and all; a list's copies; anything else as it is."""
    if isinstance(value, list):
        return [on_the_device(v) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    memory = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).to(DEVICE)
    copy = memory.as_strided(value.shape, value.stride(), value.storage_offset())
    return copy.requires_grad_(value.requires_grad)
