"""The way back through a block, computed from its accumulators once more."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scheme import Scheme
from .block import CHANNELS, ROWS, TILE, flat_sizes, new_images, preactivation, store_sums
from .function import activate, through
from .lanes import LANES, sum_lanes
from .launch import launch
from .quantizer import make_quantizer

_AFFINE = tl.constexpr(int(Scheme.AFFINE))


@triton.jit
def _passed(grad, value, ends, HAS_RANGE: tl.constexpr):
    """The gradient where the value lies in the range [2], widened to hold 0; else 0."""
    if HAS_RANGE:
        lo, hi, _, _, _, _ = make_quantizer(
            tl.load(ends), tl.load(ends + 1), tl.full((), 2, tl.int32), _AFFINE
        )
        return tl.where((value >= lo) & (value <= hi), grad, 0.0)
    else:
        return grad


@triton.jit
def _gradient(
    grad,
    acc,
    scale,
    shift,
    ends,
    mean_grad,
    element,
    channel,
    image,
    channels,
    here,
    FUNCTION: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    HAS_MEAN_GRAD: tl.constexpr,
):
    """The gradient to z."""
    z = preactivation(acc, scale, shift, element, channel, here)
    g = tl.load(grad + element, mask=here, other=0.0)
    passed = _passed(g, activate(z, FUNCTION), ends, HAS_RANGE)
    if HAS_MEAN_GRAD:
        passed = passed + tl.load(mean_grad + image * channels + channel, mask=here, other=0.0)
    return through(passed, z, FUNCTION)


@triton.jit
def block_gradient_kernel(
    grad,
    acc,
    scale,
    shift,
    ends,
    mean_grad,
    k,  # [3, C]
    out,
    numel,
    size,
    channels,
    FUNCTION: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    HAS_MEAN_GRAD: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """out = dz * k[0] + (acc * k[1] + k[2])."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = element < numel
    channel, image = element % channels, element // size
    dz = _gradient(
        grad,
        acc,
        scale,
        shift,
        ends,
        mean_grad,
        element,
        channel,
        image,
        channels,
        here,
        FUNCTION,
        HAS_RANGE,
        HAS_MEAN_GRAD,
    )
    found = tl.load(acc + element, mask=here, other=0).to(tl.float32)
    k0 = tl.load(k + channel, mask=here, other=0.0)
    k1 = tl.load(k + channels + channel, mask=here, other=0.0)
    k2 = tl.load(k + 2 * channels + channel, mask=here, other=0.0)
    tl.store(out + element, dz * k0 + (found * k1 + k2), mask=here)


@triton.jit
def block_gradient_sums_kernel(
    grad,
    acc,
    scale,
    shift,
    ends,
    mean_grad,
    partial,  # [parts, 2, C]
    rows,
    positions,
    channels,
    blocks,
    FUNCTION: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    HAS_MEAN_GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Float64 sums over ROWS rows of the gradient to z, and of its products with acc."""
    part = tl.program_id(0).to(tl.int64) // blocks
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.zeros((LANES, CHANNELS), tl.float64)
    second = tl.zeros((LANES, CHANNELS), tl.float64)
    start = part * ROWS
    last = tl.minimum(start + ROWS, rows)
    while start < last:
        row = (start + tl.arange(0, LANES))[:, None]
        here = (row < last) & (channel < channels)[None, :]
        # Each operand of the shape of both, as `fma` wants them.
        element = row * channels + channel[None, :]
        dz = _gradient(
            grad,
            acc,
            scale,
            shift,
            ends,
            mean_grad,
            element,
            element % channels,
            row // positions,
            channels,
            here,
            FUNCTION,
            HAS_RANGE,
            HAS_MEAN_GRAD,
        )
        dz = tl.where(here, dz, 0.0)
        found = tl.load(acc + element, mask=here, other=0).to(tl.float32)
        first = first + dz.to(tl.float64)
        second = second + (dz * found).to(tl.float64)
        start += LANES
    store_sums(partial, part, first, second, channel, channels)


@triton.jit
def block_gate_gradient_kernel(
    grad,
    acc,
    scale,
    shift,
    gate,
    ends,
    grad_a,
    grad_gate,  # [N, C]
    positions,
    channels,
    blocks,
    FUNCTION: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The gradients to a and, summed by lanes of positions, to the gate."""
    image = tl.program_id(0).to(tl.int64) // blocks
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    channel = column[None, :]
    lane = tl.arange(0, LANES)[:, None]
    wide = tl.load(gate + image * channels + channel, mask=channel < channels, other=0.0)
    lanes = tl.zeros((LANES, CHANNELS), tl.float32)
    first = 0
    while first < positions:
        here = (first + lane < positions) & (channel < channels)
        element = (image * positions + first + lane) * channels + channel
        each = channel + tl.zeros_like(element).to(tl.int32)
        a = activate(preactivation(acc, scale, shift, element, each, here), FUNCTION)
        g = tl.load(grad + element, mask=here, other=0.0)
        passed = _passed(g, a * wide, ends, HAS_RANGE)
        tl.store(grad_a + element, passed * wide, mask=here)
        lanes = lanes + tl.where(here, passed * a, 0.0)
        first += LANES
    total = sum_lanes(lanes, CHANNELS)
    tl.store(grad_gate + image * channels + column, total, mask=column < channels)


def block_gradient(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    range: Tensor,
    mean_grad: Tensor,
    k: Tensor,
) -> Tensor:
    """dz * k[0] + (acc * k[1] + k[2]), float32 [N, C, H, W]."""
    out = new_images(acc)
    launch(
        block_gradient_kernel,
        triton.cdiv(acc.numel(), TILE),
        grad,
        acc,
        scale,
        shift,
        range,
        mean_grad,
        k,
        out,
        *flat_sizes(acc),
        FUNCTION=function,
        HAS_RANGE=range.numel() > 0,
        HAS_MEAN_GRAD=mean_grad.numel() > 0,
        TILE=TILE,
    )
    return out


def block_gradient_sums(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    range: Tensor,
    mean_grad: Tensor,
) -> Tensor:
    """Sums of the gradient to z, and of its products with acc, by channel, float64 [2, C]."""
    images, channels = acc.shape[:2]
    rows, blocks = acc.numel() // channels, triton.cdiv(channels, CHANNELS)
    partial = acc.new_empty((triton.cdiv(rows, ROWS), 2, channels), dtype=torch.float64)
    launch(
        block_gradient_sums_kernel,
        len(partial) * blocks,
        grad,
        acc,
        scale,
        shift,
        range,
        mean_grad,
        partial,
        rows,
        rows // images,
        channels,
        blocks,
        FUNCTION=function,
        HAS_RANGE=range.numel() > 0,
        HAS_MEAN_GRAD=mean_grad.numel() > 0,
        ROWS=ROWS,
        LANES=LANES,
        CHANNELS=CHANNELS,
    )
    return partial.sum(0)


def block_gate_gradient(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    gate: Tensor,
    range: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients to a, [N, C, H, W], and to the gate, [N, C], by lanes."""
    images, channels = acc.shape[:2]
    grad_a, grad_gate = new_images(acc), torch.empty_like(gate)
    blocks = triton.cdiv(channels, CHANNELS)
    launch(
        block_gate_gradient_kernel,
        images * blocks,
        grad,
        acc,
        scale,
        shift,
        gate,
        range,
        grad_a,
        grad_gate,
        acc.numel() // (images * channels),
        channels,
        blocks,
        FUNCTION=function,
        HAS_RANGE=range.numel() > 0,
        LANES=LANES,
        CHANNELS=CHANNELS,
    )
    return grad_a, grad_gate
