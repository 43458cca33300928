"""Codes of L levels in as few whole bits as a group of at most eight bits allows."""

import torch
from torch import Tensor

from ...scheme import HALF_BYTE_LEVELS, code_group


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """uint8 codes, in logical order, to a little-endian stream of groups, filled up with 0.

    A group of g codes is the number c0 + c1*L + c2*L^2 + ... in b bits.
    """
    size, bits = code_group(levels)
    flat = codes.reshape(-1)
    groups = torch.nn.functional.pad(flat, (0, -flat.numel() % size)).view(-1, size).to(torch.int32)
    place = torch.tensor([levels**i for i in range(size)], dtype=torch.int32, device=codes.device)
    words = (groups * place).sum(1, dtype=torch.int32)
    stream = (words[:, None] >> torch.arange(bits, device=codes.device)) & 1
    stream = torch.nn.functional.pad(stream.view(-1), (0, -stream.numel() % 8)).view(-1, 8)
    return (stream << torch.arange(8, device=codes.device)).sum(1).to(torch.uint8)


def unpack_codes(packed: Tensor, numel: int, levels: int) -> Tensor:
    """The first `numel` codes of a stream of groups, uint8 [numel]."""
    size, bits = code_group(levels)
    groups = -(-numel // size)
    stream = (packed.to(torch.int32)[:, None] >> torch.arange(8, device=packed.device)) & 1
    stream = stream.view(-1)[: groups * bits].view(groups, bits)
    words = (stream << torch.arange(bits, device=packed.device)).sum(1)
    place = torch.tensor([levels**i for i in range(size)], device=packed.device)
    return (words[:, None] // place % levels).view(-1)[:numel].to(torch.uint8)


def packed_activations(codes: Tensor, levels: int) -> Tensor:
    """Codes of activations, uint8 in memory order: two a byte up to 16 levels, else a byte each."""
    return pack_codes(codes, HALF_BYTE_LEVELS) if levels <= HALF_BYTE_LEVELS else codes.reshape(-1)


def unpacked_activations(packed: Tensor, numel: int, levels: int) -> Tensor:
    """The codes [numel] of `packed_activations`."""
    return unpack_codes(packed, numel, HALF_BYTE_LEVELS) if levels <= HALF_BYTE_LEVELS else packed
