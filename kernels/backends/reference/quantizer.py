"""A range, what follows from it, and the codes and values of a tensor."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...scheme import Scheme


class Quantizer(NamedTuple):
    """A range and what follows from it; each tensor is a scalar or one entry per channel.

    A learned one has integers for its ends, the lowest and the highest, between which it is inside.
    """

    lo: Tensor
    hi: Tensor
    scale: Tensor
    zero_point: Tensor
    code_min: int
    code_max: int
    is_learned: bool = False


def scale_of_step(step: Tensor) -> Tensor:
    """One over a learned step; NaN, as then is every value, where the step is none.

    That is where it is not positive, or has no finite inverse.
    """
    inverse = torch.ones_like(step) / step
    return torch.where((inverse > 0) & (inverse < torch.inf), inverse, torch.nan)


def learned_quantizer(step: Tensor, zero_point: Tensor, levels: int) -> Quantizer:
    """The quantizer of a step and its zero point, a whole number; S is one over the step."""
    n, zero = levels - 1, zero_point + 0.0
    return Quantizer(zero, zero + n, scale_of_step(step), zero, 0, n, True)


def make_quantizer(lo: Tensor, hi: Tensor, levels: int, scheme: int) -> Quantizer:
    """The quantizer of `levels` levels for the range [lo, hi], widened to hold 0.

    That of a step, in the place of lo, and a zero point, where the scheme is LEARNED.
    """
    if scheme == Scheme.LEARNED:
        return learned_quantizer(lo, hi, levels)
    zero = torch.zeros_like(lo)
    symmetric = Scheme(scheme).is_symmetric
    if symmetric:
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
    if scheme in (Scheme.AFFINE, Scheme.SYMMETRIC):
        # A Python number / tensor is reciprocal-then-multiply in PyTorch; this is one division.
        scale = torch.full_like(width, n) / width
    else:
        scale = (torch.ones_like(width) / width) * float(n)
    zero_point = zero if symmetric else torch.round(scale * lo) + 0.0
    return Quantizer(lo, hi, scale, zero_point, code_min, n)


def codes(x: Tensor, q: Quantizer) -> Tensor:
    """Codes of float32 x as whole numbers; NaN where x is not finite or the quantizer is NaN."""
    whole = torch.round(q.scale * x - q.zero_point).clamp(q.code_min, q.code_max)
    return torch.where(x.isfinite(), whole, torch.nan)


def values(whole: Tensor, q: Quantizer) -> Tensor:
    """The float32 values of codes, a correctly rounded division; NaN stays NaN."""
    return (whole + q.zero_point) / q.scale


def is_inside(x: Tensor, q: Quantizer) -> Tensor:
    """Where x lies in the widened range, its ends included; strictly between learned ones."""
    if q.is_learned:
        t = q.scale * x
        return (t > q.lo) & (t < q.hi)
    return (x >= q.lo) & (x <= q.hi)
