"""What the operators refuse: one check each, shared by the kernels' router and the fakes."""

import struct

import torch
from torch import Tensor

from .scheme import check_quantizer, packed_bytes

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# Two codes share a byte.
MOST_CODE_LEVELS = 16


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


def check_float(name: str, x: Tensor) -> None:
    """Raise TypeError unless x is float32, bfloat16 or float16."""
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} is {x.dtype}, but must be float32, bfloat16 or float16")


def check_same_device(name: str, x: Tensor, other: Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, but the data is on {other.device}")


def _check_dense(name: str, x: Tensor) -> None:
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


def _check_lists(**lists: list[Tensor] | list[int]) -> None:
    (first, expected), *others = ((name, len(items)) for name, items in lists.items())
    if expected == 0:
        raise ValueError(f"{first} is empty, but must hold at least one tensor")
    for name, length in others:
        if length != expected:
            raise ValueError(f"{name} has {length} entries for {expected} {first}")


def move_range(found: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Check of `move_range_`; a decay that float32 rounds to 1 would divide by 0."""
    check("extremes", found, torch.float32, (2,))
    _check_state(found, ema, range, step, decay)


def update_range(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Check of `update_range_`."""
    _check_dense("x", x)
    _check_some(x)
    _check_state(x, ema, range, step, decay)


def _check_some(x: Tensor) -> None:
    if x.numel() == 0:
        raise ValueError(f"x has shape {list(x.shape)}, and no elements have no range")


def _check_state(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    for name, state in (("ema", ema), ("range", range)):
        check(name, state, torch.float32, (2,))
        check_same_device(name, state, x)
    _check_step_count(x, step)
    if not 0 <= decay < 1 or struct.unpack("f", struct.pack("f", decay))[0] == 1:
        raise ValueError(f"decay is {decay}, but must lie in [0, 1) in float32")


def _check_step_count(x: Tensor, step: Tensor) -> None:
    check("step", step, torch.int64, (1,))
    check_same_device("step", step, x)


def fake_quant_per_tensor(x: Tensor, range: Tensor, levels: int, scheme: int) -> None:
    """Check of `fake_quant_per_tensor`."""
    _check_dense("x", x)
    check("range", range, torch.float32, (2,))
    check_same_device("range", range, x)
    check_quantizer(levels, scheme)


def fake_quant_per_tensor_observed(
    x: Tensor, range: Tensor, step: Tensor, levels: int, scheme: int
) -> None:
    """Check of `fake_quant_per_tensor_observed`."""
    fake_quant_per_tensor(x, range, levels, scheme)
    _check_some(x)
    _check_step_count(x, step)


def quantize_per_tensor(x: Tensor, range: Tensor, levels: int, scheme: int) -> None:
    """Check of `quantize_per_tensor`."""
    fake_quant_per_tensor(x, range, levels, scheme)
    _check_some(x)
    _check_code_levels(levels)


def _check_code_levels(levels: int) -> None:
    if levels > MOST_CODE_LEVELS:
        raise ValueError(f"levels is {levels}, but a code of four bits has {MOST_CODE_LEVELS}")


def dequantize_per_tensor(
    codes: Tensor, range: Tensor, numel: int, levels: int, scheme: int
) -> None:
    """Check of `dequantize_per_tensor`."""
    _check_code_levels(levels)
    unpack_codes(codes, numel, MOST_CODE_LEVELS)
    check("range", range, torch.float32, (2,))
    check_same_device("range", range, codes)
    check_quantizer(levels, scheme)


def select_by_bits(grad: Tensor, bits: Tensor) -> None:
    """Check of the two gradients that keep or drop each element by a bit."""
    _check_dense("grad", grad)
    check_bits("mask", bits, grad.numel(), "elements")
    check_same_device("mask", bits, grad)


def per_channel(w: Tensor, mask: Tensor, levels: int, scheme: int) -> None:
    """Check of the operators that quantize weights; an empty mask keeps all."""
    check_weights(w, mask)
    check_quantizer(levels, scheme)


def fake_quant_weights(
    weights: list[Tensor], masks: list[Tensor], levels: list[int], scheme: int
) -> None:
    """Check of `fake_quant_weights`: each weight as in `per_channel`, all alike."""
    _check_lists(weights=weights, masks=masks, levels=levels)
    for w, mask, n in zip(weights, masks, levels, strict=True):
        per_channel(w, mask, n, scheme)
    _check_alike("weights", weights)


def mask_gradients(grads: list[Tensor], masks: list[Tensor]) -> None:
    """Check of `mask_gradients`; an empty mask keeps all."""
    _check_lists(grads=grads, masks=masks)
    for grad, mask in zip(grads, masks, strict=True):
        if mask.numel():
            select_by_bits(grad, mask)
        _check_dense("grad", grad)
    _check_alike("grads", grads)


def _check_alike(name: str, tensors: list[Tensor]) -> None:
    for x in tensors:
        check(f"one of {name}", x, tensors[0].dtype)
        check_same_device(f"one of {name}", x, tensors[0])


def learned_step(x: Tensor, mask: Tensor, step: Tensor, zero_point: Tensor, levels: int) -> None:
    """Check of `fake_quant_learned_step`: one step for all of x, or one for each channel."""
    _check_dense("x", x)
    check("mask", mask, torch.uint8)
    if mask.numel():
        check_bits("mask", mask, x.numel(), "elements")
    check_same_device("mask", mask, x)
    channels = x.shape[0] if x.dim() else 1
    check("step", step, torch.float32)
    if step.dim() != 1 or step.numel() not in (1, channels) or step.numel() == 0:
        raise ValueError(f"step has shape {list(step.shape)}, but must have [1] or [{channels}]")
    if step.numel() > 1:
        check_order("x", x)
    check("zero_point", zero_point, torch.float32, tuple(step.shape))
    for name, other in (("step", step), ("zero_point", zero_point)):
        check_order(name, other)
        check_same_device(name, other, x)
    check_quantizer(levels, 0)


def learned_step_backward(
    grad: Tensor,
    x: Tensor,
    mask: Tensor,
    step: Tensor,
    zero_point: Tensor,
    levels: int,
    gradient_scale: float,
) -> None:
    """Check of `fake_quant_learned_step_backward`; the gradient lies in memory as x does."""
    learned_step(x, mask, step, zero_point, levels)
    check("grad", grad, x.dtype, tuple(x.shape))
    check_same_device("grad", grad, x)
    if grad.stride() != x.stride():
        raise ValueError(f"grad has strides {list(grad.stride())}, but x has {list(x.stride())}")


def pack_codes(codes: Tensor, levels: int) -> None:
    """Check of `pack_codes`; a code too large is looked for by the kernels on the CPU."""
    check_contiguous("codes", codes, torch.uint8)
    packed_bytes(0, levels)


def unpack_codes(packed: Tensor, numel: int, levels: int) -> None:
    """Check of `unpack_codes`."""
    check_count("numel", numel)
    check_contiguous("packed", packed, torch.uint8)
    needed = packed_bytes(numel, levels)
    if packed.dim() != 1 or packed.numel() != needed:
        raise ValueError(
            f"packed has {packed.numel()} bytes for {numel} codes, which need {needed}"
        )
