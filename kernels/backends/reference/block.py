"""What follows a convolution in a block: affine map, function, gate, codes; and the way back.

z = fma(acc, scale, shift), a = function(z), and a * gate where there is one. exp is a polynomial
of fused multiply-adds.
"""

import torch
from torch import Tensor

from ...operands import Affine, takes
from ...scheme import Function, Scheme
from .codes import pack_codes
from .exact import fma, sum_lanes
from .fake_quant_activation import CODE_SLOTS, memory_order
from .quantizer import codes, is_inside, make_quantizer

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


@takes(Affine)
def block_codes(affine: Affine, gate: Tensor, range: Tensor, levels: int) -> Tensor:
    """Codes of the values, two a byte, channels last; 0 where a value is not finite."""
    q = make_quantizer(range[0], range[1], levels, Scheme.AFFINE)
    whole = codes(_gated(affine, gate), q).nan_to_num(nan=0.0)
    return pack_codes(memory_order(whole.to(torch.uint8)), CODE_SLOTS)


@takes(Affine)
def block_means(affine: Affine) -> Tensor:
    """Means over the positions [N, C], summed in float32 by lanes of positions."""
    a = _value(affine).flatten(2)
    total = sum_lanes(a)
    return total / torch.full_like(total, a.shape[2])


def _gradient(grad: Tensor, affine: Affine, range: Tensor, mean_grad: Tensor) -> Tensor:
    """The gradient to z."""
    z = _preactivation(affine)
    passed = _passed(grad, _activate(z, affine.function), range)
    if mean_grad.numel():
        passed = passed + mean_grad[:, :, None, None]
    return _through(passed, z, affine.function)


def _passed(grad: Tensor, value: Tensor, range: Tensor) -> Tensor:
    grad = grad.float()
    if not range.numel():
        return grad
    q = make_quantizer(range[0], range[1], 2, Scheme.AFFINE)
    return torch.where(is_inside(value, q), grad, 0.0)


@takes(Affine, at=1)
def block_gradient_sums(grad: Tensor, affine: Affine, range: Tensor, mean_grad: Tensor) -> Tensor:
    """Sums of the gradient to z, and of its products with acc, by channel, float64 [2, C]."""
    dz = _gradient(grad, affine, range, mean_grad)
    products = dz * affine.acc.float()
    return torch.stack([dz.double().sum((0, 2, 3)), products.double().sum((0, 2, 3))])


@takes(Affine, at=1)
def block_gradient(
    grad: Tensor, affine: Affine, range: Tensor, mean_grad: Tensor, k: Tensor, dtype: torch.dtype
) -> Tensor:
    """dz * k[0] + (acc * k[1] + k[2]), [N, C, H, W], rounded to a dtype."""
    dz = _gradient(grad, affine, range, mean_grad)
    k0, k1, k2 = k[:, :, None, None]
    return _images(dz * k0 + (affine.acc.float() * k1 + k2)).to(dtype)


@takes(Affine, at=1)
def block_gate_gradient(
    grad: Tensor, affine: Affine, gate: Tensor, range: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients to a, [N, C, H, W], and to the gate, [N, C], by lanes."""
    a = _value(affine)
    wide = gate[:, :, None, None]
    passed = _passed(grad, a * wide, range)
    total = sum_lanes((passed * a).flatten(2))
    return _images(passed * wide), total
