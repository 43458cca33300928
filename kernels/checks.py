"""What the operators refuse: one check each, shared by the kernels' router and the fakes."""

import struct

import torch
from torch import Tensor

from .scheme import check_quantiser


def bytes_for(numel: int) -> int:
    """Bytes that hold `numel` packed bits."""
    return (numel + 7) // 8


def is_dense(x: Tensor) -> bool:
    """Whether x is contiguous or channels_last, the layouts the activation kernels walk."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _check(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> None:
    if x.dtype != dtype:
        raise TypeError(f"{name} is {x.dtype}, but must be {dtype}")
    if shape is not None and x.shape != shape:
        raise ValueError(f"{name} has shape {list(x.shape)}, but must have {list(shape)}")


def _check_same_device(name: str, x: Tensor, other: Tensor) -> None:
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, but the data is on {other.device}")


def _check_dense(name: str, x: Tensor) -> None:
    _check(name, x, torch.float32)
    if not is_dense(x):
        raise ValueError(
            f"{name} has strides {list(x.stride())}, but must be contiguous or channels_last"
        )


def _check_contiguous(name: str, x: Tensor, dtype: torch.dtype) -> None:
    _check(name, x, dtype)
    if not x.is_contiguous():
        raise ValueError(f"{name} has strides {list(x.stride())}, but must be contiguous")


def _check_bits(name: str, bits: Tensor, numel: int, of: str) -> None:
    _check_contiguous(name, bits, torch.uint8)
    if bits.dim() != 1 or bits.numel() != bytes_for(numel):
        raise ValueError(
            f"{name} has {bits.numel()} bytes for {numel} {of}, which need {bytes_for(numel)}"
        )


def _check_channels(w: Tensor) -> None:
    _check_contiguous("w", w, torch.float32)
    if w.dim() == 0 or w.numel() == 0:
        raise ValueError(f"w has shape {list(w.shape)}, but must have channels with elements")


def update_range(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Check of `update_range_`; a decay that float32 rounds to 1 would divide by 0."""
    _check_dense("x", x)
    if x.numel() == 0:
        raise ValueError(f"x has shape {list(x.shape)}, and no elements have no range")
    for name, state in (("ema", ema), ("range", range)):
        _check(name, state, torch.float32, (2,))
        _check_same_device(name, state, x)
    _check("step", step, torch.int64, (1,))
    _check_same_device("step", step, x)
    if not 0 <= decay < 1 or struct.unpack("f", struct.pack("f", decay))[0] == 1:
        raise ValueError(f"decay is {decay}, but must lie in [0, 1) in float32")


def fake_quant_per_tensor(x: Tensor, range: Tensor, levels: int, scheme: int) -> None:
    """Check of `fake_quant_per_tensor`."""
    _check_dense("x", x)
    _check("range", range, torch.float32, (2,))
    _check_same_device("range", range, x)
    check_quantiser(levels, scheme)


def select_by_bits(grad: Tensor, bits: Tensor) -> None:
    """Check of the two gradients that keep or drop each element by a bit."""
    _check_dense("grad", grad)
    _check_bits("mask", bits, grad.numel(), "elements")
    _check_same_device("mask", bits, grad)


def per_channel(w: Tensor, mask: Tensor, levels: int, scheme: int) -> None:
    """Check of the operators that quantise weights; an empty mask keeps all."""
    _check_channels(w)
    _check("mask", mask, torch.uint8)
    if mask.numel():
        _check_bits("mask", mask, w.numel(), "weights")
    _check_same_device("mask", mask, w)
    check_quantiser(levels, scheme)


def smallest_magnitude_mask(w: Tensor, k: int) -> None:
    """Check of `smallest_magnitude_mask`; NaN is looked for by the kernels."""
    _check_contiguous("w", w, torch.float32)
    if not 0 <= k <= w.numel():
        raise ValueError(f"k is {k}, but w has {w.numel()} weights to prune")


def pack_bits(flags: Tensor) -> None:
    """Check of `pack_bits`."""
    _check_contiguous("flags", flags, torch.bool)


def unpack_bits(bits: Tensor, numel: int) -> None:
    """Check of `unpack_bits`."""
    if numel < 0:
        raise ValueError(f"numel is {numel}, but must not be negative")
    _check_bits("bits", bits, numel, "flags")


def count_nonzero(w: Tensor) -> None:
    """Check of `count_nonzero`."""
    _check_contiguous("w", w, torch.float32)


def count_nonzero_per_channel(w: Tensor) -> None:
    """Check of `count_nonzero_per_channel`."""
    _check_contiguous("w", w, torch.float32)
    if w.dim() == 0:
        raise ValueError("w is a scalar, but must have channels in dimension 0")
