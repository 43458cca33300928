"""What the checks of several operators look for; the checks themselves stand in `ops/`."""

import torch
from torch import Tensor

from .scheme import Scheme, check_quantizer, code_bytes, packed_bytes

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def bytes_for(numel: int) -> int:
    """Bytes that hold `numel` packed bits."""
    return (numel + 7) // 8


def is_dense(x: Tensor) -> bool:
    """Whether x fills its memory without gaps or overlaps, in whatever order of dimensions."""
    if x.is_contiguous() or x.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def check(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> None:
    """Raise TypeError or ValueError unless x has this dtype, and this shape where one is given."""
    if x.dtype != dtype:
        raise TypeError(f"{name} is {x.dtype}, but must be {dtype}")
    if shape is not None and x.shape != shape:
        raise ValueError(f"{name} has shape {list(x.shape)}, but must have {list(shape)}")


def check_float_type(name: str, dtype: torch.dtype) -> None:
    """Raise TypeError unless dtype is float32, bfloat16 or float16."""
    if dtype not in FLOATS:
        raise TypeError(f"{name} is {dtype}, but must be float32, bfloat16 or float16")


def check_float(name: str, x: Tensor) -> None:
    """Raise TypeError unless x is float32, bfloat16 or float16."""
    check_float_type(name, x.dtype)


def check_same_device(name: str, x: Tensor, other: Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, but the data is on {other.device}")


def check_dense(name: str, x: Tensor) -> None:
    """Raise TypeError or ValueError unless x is float and dense."""
    check_float(name, x)
    if not is_dense(x):
        raise ValueError(f"{name} has strides {list(x.stride())}, but must have no gaps")


def check_order(name: str, x: Tensor) -> None:
    """Raise ValueError unless x is contiguous."""
    if not x.is_contiguous():
        raise ValueError(f"{name} has strides {list(x.stride())}, but must be contiguous")


def check_contiguous(name: str, x: Tensor, dtype: torch.dtype) -> None:
    """Raise TypeError or ValueError unless x is contiguous and of this dtype."""
    check(name, x, dtype)
    check_order(name, x)


def check_images(name: str, x: Tensor) -> None:
    """Raise ValueError unless x is images, channels last, and not empty."""
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"{name} has shape {list(x.shape)}, but must have [N, C, H, W], none 0")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"{name} has strides {list(x.stride())}, but must be channels last")


def check_sizes(name: str, sizes: list[int], count: int, least: int) -> None:
    """Raise ValueError unless there are so many numbers, none below the least."""
    if len(sizes) != count or min(sizes) < least:
        raise ValueError(f"{name} is {sizes}, but must be {count} numbers of at least {least}")


def check_bits(name: str, bits: Tensor, numel: int, of: str) -> None:
    """Raise TypeError or ValueError unless bits are packed bits, uint8, of numel elements."""
    check_contiguous(name, bits, torch.uint8)
    if bits.dim() != 1 or bits.numel() != bytes_for(numel):
        raise ValueError(
            f"{name} has {bits.numel()} bytes for {numel} {of}, which need {bytes_for(numel)}"
        )


def check_weights(w: Tensor, mask: Tensor) -> None:
    """Raise TypeError or ValueError unless w has channels, and mask fits them or is empty."""
    check_float("w", w)
    check_order("w", w)
    if w.dim() == 0 or w.numel() == 0:
        raise ValueError(f"w has shape {list(w.shape)}, but must have channels with elements")
    check("mask", mask, torch.uint8)
    if mask.numel():
        check_bits("mask", mask, w.numel(), "weights")
    check_same_device("mask", mask, w)


def check_count(name: str, count: int) -> None:
    """Raise ValueError if a count is negative."""
    if count < 0:
        raise ValueError(f"{name} is {count}, but must not be negative")


def check_selection(grad: Tensor, bits: Tensor) -> None:
    """Check of the two gradients that keep or drop each element by a bit."""
    check_dense("grad", grad)
    check_bits("mask", bits, grad.numel(), "elements")
    check_same_device("mask", bits, grad)


def check_range_scheme(levels: int, scheme: int) -> None:
    """Raise ValueError unless levels and scheme describe a quantizer of a range."""
    check_quantizer(levels, scheme)
    if scheme == Scheme.LEARNED:
        raise ValueError("a learned step has no range: call the operators of learned steps")


def check_codes(codes: Tensor, numel: int, levels: int) -> None:
    """Raise TypeError or ValueError unless codes are those of numel activations, uint8."""
    _check_bytes("codes", codes, numel, code_bytes(numel, levels))


def check_packed(packed: Tensor, numel: int, levels: int) -> None:
    """Raise TypeError or ValueError unless packed are the bytes of numel codes, uint8."""
    _check_bytes("packed", packed, numel, packed_bytes(numel, levels))


def _check_bytes(name: str, codes: Tensor, numel: int, needed: int) -> None:
    check_count("numel", numel)
    check_contiguous(name, codes, torch.uint8)
    if codes.dim() != 1 or codes.numel() != needed:
        raise ValueError(f"{name} has {codes.numel()} bytes for {numel} codes, which need {needed}")
