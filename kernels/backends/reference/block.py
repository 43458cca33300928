"""What follows a convolution in a block: affine map, function, gate, codes; and the way back.

z = fma(acc, scale, shift), a = function(z), and a * gate where there is one. exp is a polynomial
of fused multiply-adds.
"""

import torch
from torch import Tensor

from ...operands import Affine, Coding, takes
from ...scheme import Function
from .bits_and_counts import memory_order
from .codes import packed_activations
from .exact import fma, sum_lanes
from .learned_step import learned_terms
from .quantizer import Quantizer, codes, is_inside, make_quantizer

# Cephes' expf (Moshier): the polynomial, and ln 2 in two parts.
_POLYNOMIAL = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_FIRST = 1.9875691500e-4
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, -0.693359375, 2.12194440e-4


def _number(value: float, like: Tensor) -> Tensor:
    return torch.full_like(like, value)


def exp(x: Tensor) -> Tensor:
    """e^x of float32 x, by the polynomial of csrc/include/function.h."""
    v = x.clamp(-104.0, 89.0)
    n = torch.round(v * torch.tensor(_LOG2_E, dtype=torch.float32))
    r = fma(n, _number(_LN2_HIGH, n), v)
    r = fma(n, _number(_LN2_LOW, n), r)
    p = _number(_FIRST, r)
    for factor in _POLYNOMIAL:
        p = fma(p, r, _number(factor, r))
    p = fma(p, r * r, r) + 1.0
    half = torch.round(n * 0.5)
    return (p * _power_of_two(half)) * _power_of_two(n - half)


def _power_of_two(n: Tensor) -> Tensor:
    """2^n for whole numbers in [-126, 127]; anything for NaN."""
    return ((n.nan_to_num(nan=0.0).to(torch.int32) + 127) << 23).view(torch.float32)


def _activate(z: Tensor, function: int) -> Tensor:
    if function == Function.RELU:
        return torch.where(z < 0, 0.0, z)
    if function == Function.SIGMOID:
        return _sigmoid(z)
    return z / (1.0 + exp(-z)) if function == Function.SWISH else z


def _sigmoid(z: Tensor) -> Tensor:
    return torch.ones_like(z) / (1.0 + exp(-z))


def _through(grad: Tensor, z: Tensor, function: int) -> Tensor:
    """A gradient through the function; ReLU chooses, so that no infinity turns into NaN."""
    if function == Function.RELU:
        return torch.where(z <= 0, 0.0, grad)
    if function == Function.IDENTITY:
        return grad
    s = _sigmoid(z)
    return grad * (s * (1.0 - s) if function == Function.SIGMOID else s * (1.0 + z * (1.0 - s)))


def _preactivation(affine: Affine) -> Tensor:
    acc, scale, shift, _ = affine
    wide = scale[:, None, None].expand(acc.shape)
    return fma(acc.float(), wide, shift[:, None, None].expand(acc.shape))


def _value(affine: Affine) -> Tensor:
    return _activate(_preactivation(affine), affine.function)


def _images(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def channel_moments(acc: Tensor) -> Tensor:
    """Sums of the accumulators and of their squares by channel, float64 [2, C]."""
    v = acc.double()
    return torch.stack([v.sum((0, 2, 3)), (v * v).sum((0, 2, 3))])


def _gated(affine: Affine, gate: Tensor) -> Tensor:
    a = _value(affine)
    return _images(a * gate[:, :, None, None] if gate.numel() else a)


@takes(Affine)
def block_values(affine: Affine, gate: Tensor) -> Tensor:
    """The values [N, C, H, W], float32, channels last."""
    return _gated(affine, gate)


@takes(Affine)
def block_extremes(affine: Affine, gate: Tensor) -> Tensor:
    """The least and the largest value [2], both NaN where one is."""
    return torch.stack(torch.aminmax(_gated(affine, gate))) + 0.0


def _quantizer(coding: Coding) -> Quantizer:
    low, high = coding.range[0], coding.range[1]
    return make_quantizer(low, high, coding.levels, coding.scheme)


@takes(Coding, at=5)
@takes(Affine)
def block_codes(affine: Affine, gate: Tensor, coding: Coding) -> Tensor:
    """Codes of the values, packed, channels last; 0 where a value is not finite."""
    q = _quantizer(coding)
    whole = (codes(_gated(affine, gate), q) - q.code_min).nan_to_num(nan=0.0)
    return packed_activations(memory_order(whole.to(torch.uint8)), coding.levels)


@takes(Affine)
def block_means(affine: Affine) -> Tensor:
    """Means over the positions [N, C], summed in float32 by lanes of positions."""
    a = _value(affine).flatten(2)
    total = sum_lanes(a)
    return total / torch.full_like(total, a.shape[2])


def _gradient(grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor) -> Tensor:
    """The gradient to z."""
    z = _preactivation(affine)
    passed = _passed(grad, _activate(z, affine.function), coding)
    if mean_grad.numel():
        passed = passed + mean_grad[:, :, None, None]
    return _through(passed, z, affine.function)


def _passed(grad: Tensor, value: Tensor, coding: Coding) -> Tensor:
    grad = grad.float()
    if not coding.range.numel():
        return grad
    return torch.where(is_inside(value, _quantizer(coding)), grad, 0.0)


def _by_channel(*terms: Tensor) -> Tensor:
    return torch.stack([of.double().sum((0, 2, 3)) for of in terms])


@takes(Coding, at=5)
@takes(Affine, at=1)
def block_gradient_sums(grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor) -> Tensor:
    """Sums of the gradient to z, and of its products with acc, by channel, float64 [2, C]."""
    return _sums_of(_gradient(grad, affine, coding, mean_grad), affine)


def _sums_of(dz: Tensor, affine: Affine) -> Tensor:
    return _by_channel(dz, dz * affine.acc.float())


@takes(Coding, at=5)
@takes(Affine, at=1)
def block_gradient_kept(
    grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums of `block_gradient_sums`, and the gradient to z, [N, C, H, W], float32."""
    dz = _gradient(grad, affine, coding, mean_grad)
    # A copy also where the gradient passes as it is: this one is written to.
    return _sums_of(dz, affine), dz.clone(memory_format=torch.channels_last)


def norm_gradient_(dz: Tensor, acc: Tensor, k: Tensor) -> None:
    """dz * k[0] + (acc * k[1] + k[2]), in place of the gradient to z."""
    dz.copy_(_mapped(dz, acc, k))


def _mapped(dz: Tensor, acc: Tensor, k: Tensor) -> Tensor:
    k0, k1, k2 = k[:, :, None, None]
    return dz * k0 + (acc.float() * k1 + k2)


@takes(Coding, at=5)
@takes(Affine, at=1)
def block_gradient(
    grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor, k: Tensor, dtype: torch.dtype
) -> Tensor:
    """dz * k[0] + (acc * k[1] + k[2]), [N, C, H, W], rounded to a dtype."""
    dz = _gradient(grad, affine, coding, mean_grad)
    return _images(_mapped(dz, affine.acc, k)).to(dtype)


@takes(Coding, at=6)
@takes(Affine, at=1)
def block_gate_gradient(
    grad: Tensor, affine: Affine, gate: Tensor, coding: Coding
) -> tuple[Tensor, Tensor]:
    """The gradients to a, [N, C, H, W], and to the gate, [N, C], by lanes."""
    a = _value(affine)
    wide = gate[:, :, None, None]
    passed = _passed(grad, a * wide, coding)
    total = sum_lanes((passed * a).flatten(2))
    return _images(passed * wide), total


@takes(Coding, at=6)
@takes(Affine, at=1)
def block_step_sums(grad: Tensor, affine: Affine, gate: Tensor, coding: Coding) -> Tensor:
    """The gradients to a learned step and to its offset by channel, float64 [2, C].

    Sums of grad * (i - S*value) inside and of grad * i elsewhere; of grad where it does not pass.
    """
    inside, factors = learned_terms(_gated(affine, gate), _quantizer(coding))
    wide = grad.float()
    return _by_channel(wide * factors, torch.where(inside, 0.0, wide))
