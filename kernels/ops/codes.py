"""Codes of L levels, packed in as few whole bits as a group of at most eight bits allows."""

import torch
from torch import Tensor

from ..checks import check_contiguous, check_packed
from ..scheme import packed_bytes
from .registry import define, empty


def _check_pack(codes: Tensor, levels: int) -> None:
    """A code too large is looked for by the kernels on the CPU."""
    check_contiguous("codes", codes, torch.uint8)
    packed_bytes(0, levels)


define(
    "pack_codes(Tensor codes, int levels) -> Tensor",
    _check_pack,
    lambda codes, levels: empty(codes, (packed_bytes(codes.numel(), levels),), torch.uint8),
)
define(
    "unpack_codes(Tensor packed, int numel, int levels) -> Tensor",
    check_packed,
    lambda packed, numel, levels: empty(packed, (numel,), torch.uint8),
)

_OP = torch.ops.micronet


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """uint8 codes below `levels`, in logical order, as a little-endian stream of bits.

    Whole powers of two take k bits a code; other levels are packed in groups, a group of codes
    c0, c1, c2 being the number c0 + c1*L + c2*L^2: five levels take 7 bits for three codes. The
    last group and the last byte are filled with 0. Codes must be below `levels`. Raises
    ValueError for levels outside 2 to 256, TypeError for a dtype.
    """
    return _OP.pack_codes.default(codes.contiguous(), levels)


def unpack_codes(packed: Tensor, numel: int, levels: int) -> Tensor:
    """The inverse of `pack_codes`, uint8 [numel]; ValueError for a number of bytes."""
    return _OP.unpack_codes.default(packed.contiguous(), numel, levels)
