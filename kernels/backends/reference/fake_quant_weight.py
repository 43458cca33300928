"""Weights: masked, then rounded to the range of each channel."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...scheme import Scheme
from .bits_and_counts import select_by_bits
from .quantizer import Quantizer, codes, make_quantizer, values


def _masked_channels(w: Tensor, mask: Tensor, levels: int, scheme: int) -> tuple[Tensor, Quantizer]:
    masked = (select_by_bits(w, mask) if mask.numel() else w).float()
    rows = masked.flatten(1) if w.dim() > 1 else masked[:, None]
    lo, hi = torch.aminmax(rows, dim=1, keepdim=True)
    return rows, make_quantizer(lo, hi, levels, scheme)


def fake_quant_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the codes of the masked weights, with each channel's scale and zero point."""
    rows, q = _masked_channels(w, mask, levels, scheme)
    w_hat = values(codes(rows, q), q).to(w.dtype)
    return w_hat.view(w.shape), q.scale.flatten(), q.zero_point.flatten()


def one_by_one(
    quantize: Callable[..., tuple[Tensor, ...]],
    weights: list[Tensor],
    masks: list[Tensor],
    levels: list[int],
    scheme: int,
) -> list[Tensor]:
    """The values of each weight of a network, by an operator on one."""
    each = zip(weights, masks, levels, strict=True)
    return [quantize(w, mask, n, scheme)[0] for w, mask, n in each]


def masked_one_by_one(
    select: Callable[[Tensor, Tensor], Tensor], grads: list[Tensor], masks: list[Tensor]
) -> list[Tensor]:
    """Each gradient by an operator that masks one, a copy where its mask is empty."""
    each = zip(grads, masks, strict=True)
    return [select(grad, mask) if mask.numel() else grad.clone() for grad, mask in each]


# All weights of a network, and their gradients.
fake_quant_weights = partial(one_by_one, fake_quant_per_channel)
mask_gradients = partial(masked_one_by_one, select_by_bits)


def quantize_per_channel(
    w: Tensor, mask: Tensor, levels: int, scheme: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the masked weights (0 for NaN), with each channel's scale and zero point.

    Those of SYMMETRIC are less code_min, which the zero point takes back.
    """
    rows, q = _masked_channels(w, mask, levels, scheme)
    dtype = torch.int8 if scheme == Scheme.DISTILLER_SYMMETRIC else torch.uint8
    least = q.code_min if scheme == Scheme.SYMMETRIC else 0
    whole = (codes(rows, q) - least).nan_to_num(nan=0.0).to(dtype)
    return whole.view(w.shape), q.scale.flatten(), (q.zero_point + least).flatten()
