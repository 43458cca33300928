"""The way back through a block, computed from its accumulators once more."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import Affine, Coding, takes
from .block import (
    CHANNELS,
    TILE,
    Rows,
    Sizes,
    constant,
    new_images,
    no_sums,
    part_of,
    positions_from,
    preactivation,
    rows_from,
    store_sums,
    sum_parts,
)
from .function import activate, through
from .lanes import LANES, sum_lanes
from .launch import given, launch, row_and_columns
from .quantizer import is_inside, load_quantizer, narrow, quantize, widen


@triton.jit
def _passed(grad, value, ends, levels, SCHEME: tl.constexpr):
    """The gradient where the value lies inside of what the ends [2] and the scheme make; else 0."""
    if ends is not None:
        lo, hi, scale, _, _, _ = load_quantizer(ends, levels, SCHEME)
        return tl.where(is_inside(value, lo, hi, scale, SCHEME), grad, 0.0)
    else:
        return grad


@triton.jit
def _gradient(
    grad, affine, ends, levels, mean_grad, element, channel, image, channels, here, SCHEME
):
    """The gradient to z."""
    z = preactivation(affine, element, channel, here)
    g = widen(tl.load(grad + element, mask=here, other=0.0))
    passed = _passed(g, activate(z, affine.function), ends, levels, SCHEME)
    if mean_grad is not None:
        passed = passed + tl.load(mean_grad + image * channels + channel, mask=here, other=0.0)
    return through(passed, z, affine.function)


@triton.jit(do_not_specialize=["levels"])
def block_gradient_kernel(
    grad,
    affine,
    ends,
    mean_grad,
    k,  # [3, C]
    out,
    sizes,
    levels,
    SCHEME: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """out = dz * k[0] + (acc * k[1] + k[2]), rounded to its type."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < sizes.numel
    channels = sizes.channels
    channel, image = element % channels, element // sizes.image
    at = (element, channel, image, channels, here)
    dz = _gradient(grad, affine, ends, levels, mean_grad, *at, SCHEME)
    found = tl.load(affine.acc + element, mask=here, other=0).to(tl.float32)
    k0 = tl.load(k + channel, mask=here, other=0.0)
    k1 = tl.load(k + channels + channel, mask=here, other=0.0)
    k2 = tl.load(k + 2 * channels + channel, mask=here, other=0.0)
    mapped = dz * k0 + (found * k1 + k2)
    tl.store(out + element, narrow(mapped, out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["levels"])
def block_gradient_sums_kernel(
    grad, affine, ends, mean_grad, levels, partial, sizes, SCHEME: tl.constexpr, CUT: tl.constexpr
) -> None:
    """partial [parts, 2, C]: float64 sums over rows of the gradient to z, and times acc."""
    part, column, start, last = part_of(sizes, CUT)
    first, second = no_sums(CUT)
    channels = sizes.channels
    while start < last:
        element, channel, image, here = rows_from(start, last, column, sizes, CUT)
        at = (element, channel, image, channels, here)
        dz = _gradient(grad, affine, ends, levels, mean_grad, *at, SCHEME)
        dz = tl.where(here, dz, 0.0)
        found = tl.load(affine.acc + element, mask=here, other=0).to(tl.float32)
        first = first + dz.to(tl.float64)
        second = second + (dz * found).to(tl.float64)
        start += CUT[1]
    store_sums(partial, part, first, second, column, channels)


@triton.jit(do_not_specialize=["levels"])
def block_step_sums_kernel(
    grad, affine, gate, ends, levels, partial, sizes, SCHEME: tl.constexpr, CUT: tl.constexpr
) -> None:
    """partial [parts, 2, C]: float64 sums over rows of what a learned step and its offset get."""
    part, column, start, last = part_of(sizes, CUT)
    lo, hi, scale, zero, least, most = load_quantizer(ends, levels, SCHEME)
    steps, offsets = no_sums(CUT)
    channels = sizes.channels
    while start < last:
        element, channel, image, here = rows_from(start, last, column, sizes, CUT)
        value = activate(preactivation(affine, element, channel, here), affine.function)
        if gate is not None:
            value = value * tl.load(gate + image * channels + channel, mask=here, other=0.0)
        g = widen(tl.load(grad + element, mask=here, other=0.0))
        inside = is_inside(value, lo, hi, scale, SCHEME)
        whole = quantize(value, scale, zero, least, most) + zero
        terms = g * tl.where(inside, whole - scale * value, whole)
        steps = steps + tl.where(here, terms, 0.0).to(tl.float64)
        offsets = offsets + tl.where(inside, 0.0, g).to(tl.float64)
        start += CUT[1]
    store_sums(partial, part, steps, offsets, column, channels)


@triton.jit(do_not_specialize=["levels"])
def block_gate_gradient_kernel(
    grad,
    affine,
    gate,
    ends,
    grad_a,
    grad_gate,  # [N, C]
    sizes,
    levels,
    SCHEME: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The gradients to a and, summed by lanes of positions, to the gate."""
    image, column = row_and_columns(sizes.blocks, CHANNELS)
    at = image * sizes.channels + column
    wide = tl.load(gate + at, mask=column < sizes.channels, other=0.0)[None, :]
    lanes = tl.zeros((LANES, CHANNELS), tl.float32)
    first = 0
    while first < sizes.positions:
        element, channel, here = positions_from(first, image, column, sizes, LANES)
        a = activate(preactivation(affine, element, channel, here), affine.function)
        g = widen(tl.load(grad + element, mask=here, other=0.0))
        passed = _passed(g, a * wide, ends, levels, SCHEME)
        tl.store(grad_a + element, passed * wide, mask=here)
        lanes = lanes + tl.where(here, passed * a, 0.0)
        first += LANES
    tl.store(grad_gate + at, sum_lanes(lanes, CHANNELS), mask=column < sizes.channels)


@takes(Coding, at=5)
@takes(Affine, at=1)
def block_gradient(
    grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor, k: Tensor, dtype: torch.dtype
) -> Tensor:
    """dz * k[0] + (acc * k[1] + k[2]), [N, C, H, W], rounded to a dtype."""
    out, sizes = new_images(affine.acc, dtype), Sizes.of(affine.acc)
    operands = (grad, constant(affine), given(coding.range), given(mean_grad), k, out)
    programs, constants = triton.cdiv(sizes.numel, TILE), {"SCHEME": int(coding.scheme)}
    launch(block_gradient_kernel, programs, *operands, sizes, coding.levels, TILE=TILE, **constants)
    return out


@takes(Coding, at=5)
@takes(Affine, at=1)
def block_gradient_sums(grad: Tensor, affine: Affine, coding: Coding, mean_grad: Tensor) -> Tensor:
    """Sums of the gradient to z, and of its products with acc, by channel, float64 [2, C]."""
    operands = (grad, constant(affine), given(coding.range), given(mean_grad), coding.levels)
    return sum_parts(block_gradient_sums_kernel, affine.acc, *operands, SCHEME=int(coding.scheme))


@takes(Coding, at=6)
@takes(Affine, at=1)
def block_step_sums(grad: Tensor, affine: Affine, gate: Tensor, coding: Coding) -> Tensor:
    """The gradients to a learned step and to its offset by channel, float64 [2, C]."""
    operands = (grad, constant(affine), given(gate), coding.range, coding.levels)
    return sum_parts(block_step_sums_kernel, affine.acc, *operands, SCHEME=int(coding.scheme))


@takes(Coding, at=6)
@takes(Affine, at=1)
def block_gate_gradient(
    grad: Tensor, affine: Affine, gate: Tensor, coding: Coding
) -> tuple[Tensor, Tensor]:
    """The gradients to a, [N, C, H, W], and to the gate, [N, C], by lanes."""
    grad_a, grad_gate = new_images(affine.acc), torch.empty_like(gate)
    sizes = Rows.of(affine.acc)
    operands = (grad, constant(affine), gate, given(coding.range), grad_a, grad_gate, sizes)
    constants = {"SCHEME": int(coding.scheme), "LANES": LANES, "CHANNELS": CHANNELS}
    programs = len(gate) * sizes.blocks
    launch(block_gate_gradient_kernel, programs, *operands, coding.levels, **constants)
    return grad_a, grad_gate
