"""Activations: the moving range, rounding to one range, and codes."""

import torch
from torch import Tensor

from .bits_and_counts import memory_order, pack_bits
from .codes import packed_activations, unpacked_activations
from .quantizer import Quantizer, codes, is_inside, make_quantizer, values


def power(base: float, exponent: int) -> float:
    """base^exponent by repeated squaring in double precision."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def extremes(x: Tensor) -> Tensor:
    """Minimum and maximum of x as float32 [2], both NaN where x holds one; never minus zero."""
    return torch.stack(torch.aminmax(x.float())) + 0.0


def move_range_(found: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages by the extremes `found`; `range` is bias-corrected.

    Reads `step` on the host, so on an accelerator this specification waits for the device.
    """
    step += 1
    d = torch.tensor(decay, dtype=torch.float32, device=found.device)
    d_power_t = torch.full_like(d, power(d.item(), int(step)))
    ema.copy_(d * ema + (1 - d) * (found + 0.0))
    range.copy_(ema / (1 - d_power_t))


def update_range_(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages by the minimum and maximum of x."""
    move_range_(extremes(x), ema, range, step, decay)


def _quantizer(range: Tensor, levels: int, scheme: int) -> Quantizer:
    return make_quantizer(range[0], range[1], levels, scheme)


def fake_quant_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor]:
    """Values of the codes of x in x's dtype, and the bits of lo <= x <= hi in memory order."""
    q = _quantizer(range, levels, scheme)
    single = x.float()
    y = values(codes(single, q), q).to(x.dtype)
    return y, pack_bits(memory_order(is_inside(single, q)))


def fake_quant_per_tensor_observed(
    x: Tensor, range: Tensor, step: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fake_quant_per_tensor`, with the extremes of x, which are the range where step is 0."""
    found = extremes(x)
    y, inside = fake_quant_per_tensor(x, torch.where(step > 0, range, found), levels, scheme)
    return y, inside, found


def quantize_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes less code_min in memory order, packed; bits as above; the extremes of x."""
    q = _quantizer(range, levels, scheme)
    single = x.float()
    whole = (codes(single, q) - q.code_min).nan_to_num(nan=0.0).to(torch.uint8)
    inside = pack_bits(memory_order(is_inside(single, q)))
    return packed_activations(memory_order(whole), levels), inside, extremes(x)


def dequantize_per_tensor(
    packed: Tensor, range: Tensor, numel: int, levels: int, scheme: int, dtype: torch.dtype
) -> Tensor:
    """The values of packed codes, [numel], rounded to a dtype."""
    q = _quantizer(range, levels, scheme)
    return values(unpacked_activations(packed, numel, levels).float() + q.code_min, q).to(dtype)
