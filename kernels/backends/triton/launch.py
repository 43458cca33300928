"""How kernels are launched, whatever they compute."""

from typing import Any

import torch
from torch import Tensor

from .tiles import WARPS


def launch(kernel: Any, programs: int, x: Tensor, *args: Any, **constants: Any) -> None:
    """Queues `programs` programs of a kernel on the device of x, its first argument."""
    if kernel.__name__ in WARPS:
        constants.setdefault("num_warps", WARPS[kernel.__name__])
    if programs > 0:
        with torch.cuda.device_of(x):
            # A fused multiply-add rounds once where the specification rounds twice.
            kernel[(programs,)](x, *args, enable_fp_fusion=False, **constants)


def as_words(x: Tensor) -> Tensor:
    """The elements of x as integers, so that moving them keeps every bit, NaN's too."""
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def empty_bits(x: Tensor, numel: int) -> Tensor:
    """Bytes on the device of x for `numel` bits."""
    return x.new_empty(-(-numel // 8), dtype=torch.uint8)
