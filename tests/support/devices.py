"""The device of tests that need one: that of CUDA, or else the emulated one where it is loaded."""

import torch

from micronet_kernels import dispatch

EMULATED = "emulated" in dispatch.TABLE["native"]
IS_HERE = torch.cuda.is_available() or EMULATED
DEVICE = torch.device("cuda" if torch.cuda.is_available() or not EMULATED else "emulated")


def on_the_device(value):
    """Returns a tensor's copy there, strides and all; a list's copies; anything else as it is."""
    if isinstance(value, list):
        return [on_the_device(v) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    memory = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage()).to(DEVICE)
    copy = memory.as_strided(value.shape, value.stride(), value.storage_offset())
    return copy.requires_grad_(value.requires_grad)
