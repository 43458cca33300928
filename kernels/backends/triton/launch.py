"""How kernels are launched, whatever they compute, and what a program of theirs takes."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import HALF_BYTE_LEVELS
from .tiles import WARPS


def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    """Queues `programs` programs of a kernel on the device of its first operand."""
    if kernel.__name__ in WARPS:
        constants.setdefault("num_warps", WARPS[kernel.__name__])
    if programs > 0:
        first = args[0][0] if isinstance(args[0], tuple) else args[0]
        with torch.cuda.device_of(first):
            # A fused multiply-add rounds once where the specification rounds twice.
            kernel[(programs,)](*args, enable_fp_fusion=False, **constants)


def given(x: Tensor) -> Tensor | None:
    """x, or None where it is empty, for which a kernel is compiled on its own."""
    return x if x.numel() else None


@triton.jit
def row_and_columns(blocks, COLUMNS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The row of a program, and its COLUMNS columns, where a row has so many blocks of them."""
    program = tl.program_id(0)
    return program.to(tl.int64) // blocks, program % blocks * COLUMNS + tl.arange(0, COLUMNS)


def as_words(x: Tensor) -> Tensor:
    """The elements of x as integers, so that moving them keeps every bit, NaN's too."""
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def codes_in_a_byte(levels: int) -> int:
    """How many codes of activations share a byte."""
    return 2 if levels <= HALF_BYTE_LEVELS else 1


def empty_bits(x: Tensor, numel: int) -> Tensor:
    """Bytes on the device of x for `numel` bits."""
    return x.new_empty(-(-numel // 8), dtype=torch.uint8)
