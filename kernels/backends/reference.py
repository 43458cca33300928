"""The operators in plain PyTorch: the specification that every other backend is held to.

All arithmetic is float32, rounded to nearest even after each operation. Adding 0.0 turns a
negative zero into a positive one, so that no result depends on the order of a minimum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..scheme import Scheme


class Quantiser(NamedTuple):
    """A range and what follows from it; each tensor is a scalar or one entry per channel."""

    lo: Tensor
    hi: Tensor
    scale: Tensor
    zero_point: Tensor
    code_min: int
    code_max: int


def make_quantiser(lo: Tensor, hi: Tensor, levels: int, scheme: int) -> Quantiser:
    """The quantiser of `levels` levels for the range [lo, hi], widened to hold 0."""
    zero = torch.zeros_like(lo)
    if scheme == Scheme.DISTILLER_SYMMETRIC:
        n = (levels - 1) // 2
        width = hi = torch.maximum(lo.abs(), hi.abs())
        lo = -hi
        code_min = -n
    else:
        n = levels - 1
        lo, hi = torch.minimum(lo, zero) + 0.0, torch.maximum(hi, zero) + 0.0
        width = hi - lo
        code_min = 0
    width = torch.where(width == 0, float(n), width)
    if scheme == Scheme.AFFINE:
        # A Python number / tensor is reciprocal-then-multiply in PyTorch; this is one division.
        scale = torch.full_like(width, n) / width
    else:
        scale = (torch.ones_like(width) / width) * float(n)
    symmetric = scheme == Scheme.DISTILLER_SYMMETRIC
    zero_point = zero if symmetric else torch.round(scale * lo) + 0.0
    return Quantiser(lo, hi, scale, zero_point, code_min, n)


def codes(x: Tensor, q: Quantiser) -> Tensor:
    """Codes of `x` as whole float32 numbers; NaN where `x` or the quantiser is NaN."""
    return torch.round(q.scale * x - q.zero_point).clamp(q.code_min, q.code_max)


def memory_order(x: Tensor) -> Tensor:
    """The elements of a dense tensor in the order in which memory holds them."""
    return x.as_strided((x.numel(),), (1,))


def pack_bits(flags: Tensor) -> Tensor:
    """Bit i % 8 of byte i // 8 is flag i, in logical order; unused bits are 0."""
    flat = flags.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    place = torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (padded.to(torch.uint8) << place).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, numel: int) -> Tensor:
    """The first `numel` bits as booleans, [numel]."""
    place = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> place) & 1).view(-1)[:numel].bool()


def select_by_bits(values: Tensor, bits: Tensor) -> Tensor:
    """`values` where the bit is 1, else 0; bits follow the memory order of `values`."""
    keep = unpack_bits(bits, values.numel()).as_strided(values.shape, values.stride())
    return torch.where(keep, values, 0.0)


def power(base: float, exponent: int) -> float:
    """base^exponent by repeated squaring in double precision."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def update_range_(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages by the minimum and maximum of `x`; `range` is bias-corrected.

    Reads `step` on the host, so on an accelerator this specification waits for the device.
    """
    step += 1
    d = torch.tensor(decay, dtype=torch.float32, device=x.device)
    d_power_t = torch.full_like(d, power(d.item(), int(step)))
    extremes = torch.stack(torch.aminmax(x)) + 0.0
    ema.copy_(d * ema + (1 - d) * extremes)
    range.copy_(ema / (1 - d_power_t))


def fake_quant_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor]:
    """Values of the codes of `x`, and the packed bits of lo <= x <= hi in memory order."""
    q = make_quantiser(range[0], range[1], levels, scheme)
    y = (codes(x, q) + q.zero_point) / q.scale
    inside = (x >= q.lo) & (x <= q.hi)
    return y, pack_bits(memory_order(inside))


def _masked_channels(w: Tensor, mask: Tensor, levels: int, scheme: int) -> tuple[Tensor, Quantiser]:
    masked = select_by_bits(w, mask) if mask.numel() else w
    rows = masked.flatten(1) if w.dim() > 1 else masked[:, None]
    lo, hi = torch.aminmax(rows, dim=1, keepdim=True)
    return rows, make_quantiser(lo, hi, levels, scheme)


def fake_quant_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the codes of the masked weights, with each channel's scale and zero point."""
    rows, q = _masked_channels(w, mask, levels, scheme)
    values = (codes(rows, q) + q.zero_point) / q.scale
    return values.view(w.shape), q.scale.flatten(), q.zero_point.flatten()


def quantize_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the masked weights (0 for NaN), with each channel's scale and zero point."""
    rows, q = _masked_channels(w, mask, levels, scheme)
    dtype = torch.int8 if scheme == Scheme.DISTILLER_SYMMETRIC else torch.uint8
    whole = codes(rows, q).nan_to_num(nan=0.0).to(dtype)
    return whole.view(w.shape), q.scale.flatten(), q.zero_point.flatten()


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed bits of `w`, 0 at its k smallest magnitudes; of equal ones the first go first."""
    magnitude = w.reshape(-1).abs()
    if magnitude.isnan().any():
        raise ValueError("weights hold NaN, which has no magnitude to compare")
    keep = torch.ones_like(magnitude, dtype=torch.bool)
    keep[torch.sort(magnitude, stable=True).indices[:k]] = False
    return pack_bits(keep)


def count_nonzero(w: Tensor) -> Tensor:
    """Number of elements other than 0, an int64 scalar."""
    return (w != 0).sum()


def count_nonzero_per_channel(w: Tensor) -> Tensor:
    """Number of elements other than 0 at each index of dimension 0, int64 [C]."""
    return (w != 0).reshape(w.shape[0], w[:1].numel()).sum(1)


TABLE: dict[str, Callable[..., Any]] = {
    "update_range_": update_range_,
    "fake_quant_per_tensor": fake_quant_per_tensor,
    "fake_quant_per_tensor_backward": select_by_bits,
    "fake_quant_per_channel": fake_quant_per_channel,
    "quantize_per_channel": quantize_per_channel,
    "mask_gradient": select_by_bits,
    "smallest_magnitude_mask": smallest_magnitude_mask,
    "pack_bits": pack_bits,
    "unpack_bits": unpack_bits,
    "count_nonzero": count_nonzero,
    "count_nonzero_per_channel": count_nonzero_per_channel,
}
