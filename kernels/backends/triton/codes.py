"""Codes of L levels in as few whole bits as a group of at most eight bits allows.

Eight groups of b bits fill b bytes, so programs work on such words of at most 64 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import code_group, packed_bytes
from .launch import launch

# Words that a program takes.
WORDS = 128


@triton.jit
def _words(WORDS: tl.constexpr):
    """The words of a program, and the eight parts of each: groups, or bytes."""
    return tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS), tl.arange(0, 8)[None, :]


@triton.jit
def pack_codes_kernel(
    codes, packed, numel, bytes, GROUP: tl.constexpr, WORDS: tl.constexpr
) -> None:
    """packed [bytes] of codes [numel]; a group is (levels, codes, bits of them)."""
    SIZE: tl.constexpr = GROUP[1]
    BITS: tl.constexpr = GROUP[2]
    word, part = _words(WORDS)
    first = (word[:, None] * 8 + part) * SIZE
    group = tl.zeros((WORDS, 8), tl.int32)
    for i in tl.static_range(SIZE - 1, -1, -1):
        element = first + i
        code = tl.load(codes + element, mask=element < numel, other=0).to(tl.int32)
        group = group * GROUP[0] + code
    # A code that is not below the levels keeps the bits that it has room for.
    group = group & ((1 << BITS) - 1)
    whole = tl.sum(group.to(tl.int64) << (part * BITS), axis=1)
    byte = word[:, None] * BITS + part
    out = (whole[:, None] >> (part * 8)) & 255
    tl.store(packed + byte, out.to(tl.uint8), mask=(part < BITS) & (byte < bytes))


@triton.jit
def unpack_codes_kernel(
    packed, codes, numel, bytes, GROUP: tl.constexpr, WORDS: tl.constexpr
) -> None:
    """codes [numel] of packed [bytes]; a group as above."""
    SIZE: tl.constexpr = GROUP[1]
    BITS: tl.constexpr = GROUP[2]
    word, part = _words(WORDS)
    byte = word[:, None] * BITS + part
    found = tl.load(packed + byte, mask=(part < BITS) & (byte < bytes), other=0).to(tl.int64)
    whole = tl.sum(found << (part * 8), axis=1)
    group = ((whole[:, None] >> (part * BITS)) & ((1 << BITS) - 1)).to(tl.int32)
    first = (word[:, None] * 8 + part) * SIZE
    for i in tl.static_range(SIZE):
        element = first + i
        tl.store(codes + element, (group % GROUP[0]).to(tl.uint8), mask=element < numel)
        group = group // GROUP[0]


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """uint8 codes, in logical order, to a little-endian stream of groups, filled with 0.

    A group of g codes is the number c0 + c1*L + c2*L^2 + ... in b bits.
    """
    size, bits = code_group(levels)
    packed = codes.new_empty(packed_bytes(codes.numel(), levels))
    operands = (codes, packed, codes.numel(), packed.numel())
    programs = triton.cdiv(packed.numel(), bits * WORDS)
    launch(pack_codes_kernel, programs, *operands, GROUP=(levels, size, bits), WORDS=WORDS)
    return packed


def unpack_codes(packed: Tensor, numel: int, levels: int) -> Tensor:
    """The first `numel` codes of a stream of groups, uint8 [numel]."""
    size, bits = code_group(levels)
    codes = torch.empty(numel, dtype=torch.uint8, device=packed.device)
    operands = (packed, codes, numel, packed.numel())
    programs = triton.cdiv(packed.numel(), bits * WORDS)
    launch(unpack_codes_kernel, programs, *operands, GROUP=(levels, size, bits), WORDS=WORDS)
    return codes
