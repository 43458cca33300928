"""What else a user could take for fake quantization, each in the form its users write."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.methods import Unavailable, reason
from benchmarks.harness.ours import DECAY, HI, LEVELS, LO, Function

TOP = LEVELS - 1
# torch multiplies by the step and adds the zero point; Distiller divides by it and subtracts.
STEP = (HI - LO) / TOP
ZERO = -round(LO / STEP)


def torch_fused(device: str) -> Function:
    """torch.ao's observer and fake quantization in one operator, per tensor."""
    on = torch.ones(1, dtype=torch.int64, device=device)
    lowest, highest = (torch.full((1,), end, device=device) for end in (torch.inf, -torch.inf))
    scale = torch.ones(1, device=device)
    zero = torch.zeros(1, dtype=torch.int32, device=device)

    def function(x: Tensor) -> Tensor:
        return torch.fused_moving_avg_obs_fake_quant(
            x, on, on, lowest, highest, scale, zero, 1 - DECAY, 0, TOP, 0, False, False
        )

    return function


def torch_per_tensor(device: str) -> Function:
    """Fake quantization with a known range."""
    return lambda x: torch.fake_quantize_per_tensor_affine(x, STEP, ZERO, 0, TOP)


def torch_per_channel(channels: int, device: str) -> Function:
    """Fake quantization with a known range for each index of dimension 1."""
    scale = torch.full((channels,), STEP, device=device)
    zero = torch.full((channels,), ZERO, dtype=torch.int32, device=device)
    return lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero, 1, 0, TOP)


# Eager: one kernel, and one pass over the tensor, for each operation. ---------------------------


class _Range:
    """Bias-corrected moving averages of the extremes, in eager operations."""

    def __init__(self, device: str) -> None:
        self.biased = torch.zeros(2, device=device)
        self.ends = torch.zeros(2, device=device)
        self.count = torch.zeros(1, device=device)

    @torch.no_grad()
    def move(self, lowest: Tensor, highest: Tensor) -> None:
        self.count += 1
        found = torch.stack([lowest, highest])
        self.biased.copy_(DECAY * self.biased + (1 - DECAY) * found)
        self.ends.copy_(self.biased / (1 - DECAY**self.count))

    @torch.no_grad()
    def quantizer(self) -> tuple[Tensor, Tensor]:
        lo, hi = self.ends[0].clamp(max=0), self.ends[1].clamp(min=0)
        width = hi - lo
        scale = TOP / torch.where(width == 0, TOP, width)
        return scale, torch.round(scale * lo)


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (torch.round(scale * x - zero) + zero) / scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def distiller(device: str) -> Function:
    """Distiller's module: extremes, moving averages, a clamp, then rounding straight through."""
    tracked = _Range(device)

    def function(x: Tensor) -> Tensor:
        tracked.move(x.detach().min(), x.detach().max())
        scale, zero = tracked.quantizer()
        lo, hi = tracked.ends.tolist()
        return _RoundStraightThrough.apply(torch.clamp(x, lo, hi), scale, zero)

    return function


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone().mul_(1 / STEP).sub_(-ZERO).round_()
        return y.clamp_(0, TOP).add_(-ZERO).div_(1 / STEP)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def in_place(device: str) -> Function:
    """The least that eager operations can do: no range, nothing saved, the gradient passed on."""
    return _InPlace.apply


# Compiled ---------------------------------------------------------------------------------------


class _RoundClipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        ctx.save_for_backward((x >= ends[0].clamp(max=0)) & (x <= ends[1].clamp(min=0)))
        code = torch.clamp(torch.round(scale * x - zero), 0, TOP)
        return (code + zero) / scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None


def observer_and_rounding(device: str) -> Function:
    """What `compiled` compiles: the observer, and rounding with the clip gradient."""
    tracked = _Range(device)

    def function(x: Tensor) -> Tensor:
        lowest, highest = torch.aminmax(x.detach())
        tracked.move(lowest, highest)
        return _RoundClipped.apply(x, tracked.ends, *tracked.quantizer())

    return function


def compiled(x: Tensor, grad: Tensor) -> Function:
    """`observer_and_rounding` by inductor, compiled forward and backward for x before it returns.

    Raises Unavailable where inductor cannot compile here.
    """
    whole = torch.compile(observer_and_rounding(str(x.device)), fullgraph=True, dynamic=False)
    return _compile_now(whole, x, grad)


def compiled_apart(x: Tensor, grad: Tensor) -> Function:
    """As `compiled`, the two passes compiled one by one, so that x is kept in place of its mask.

    The author of a network has to take it apart by hand for this; inductor alone stores a byte
    an element, in a slow loop. Raises as `compiled`.
    """
    tracked = _Range(str(x.device))

    @torch.compile(fullgraph=True, dynamic=False)
    def forward_pass(x: Tensor) -> Tensor:
        tracked.move(*torch.aminmax(x))
        scale, zero = tracked.quantizer()
        return (torch.clamp(torch.round(scale * x - zero), 0, TOP) + zero) / scale

    @torch.compile(fullgraph=True, dynamic=False)
    def backward_pass(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
        return grad * ((x >= ends[0].clamp(max=0)) & (x <= ends[1].clamp(min=0)))

    class Apart(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = forward_pass(x)
            ctx.save_for_backward(x, tracked.ends.clone())
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            x, ends = ctx.saved_tensors
            return backward_pass(x, grad, ends)

    return _compile_now(Apart.apply, x, grad)


def _compile_now(function: Function, x: Tensor, grad: Tensor) -> Function:
    try:
        function(x).backward(grad)
    except Exception as error:  # of whatever kind the compiler or the one it calls fails with
        raise Unavailable(f"inductor: {reason(error)}") from error
    x.grad = None
    return function


def torchao_per_channel(device: str) -> Function:
    """torchao's fake quantizer of 4 bits, one range for each row of the last dimension, found anew.

    Raises Unavailable without torchao.
    """
    try:
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer
    except ImportError:
        raise Unavailable("torchao is not installed") from None
    quantizer = IntxFakeQuantizer(IntxFakeQuantizeConfig(torch.int4, "per_channel"))
    return lambda x: quantizer(x.flatten(0, -2)).view(x.shape)


# Weights ----------------------------------------------------------------------------------------

WeightsFunction = Callable[[list[Tensor]], list[Tensor]]


def _quantizer_of(w: Tensor) -> tuple[Tensor, Tensor]:
    lowest, highest = torch.aminmax(w.flatten(1), dim=1)
    lowest, highest = lowest.clamp_(max=0), highest.clamp_(min=0)
    scale = (highest - lowest).div_(TOP).clamp_(min=torch.finfo(torch.float32).tiny)
    return scale, torch.round(-lowest / scale).to(torch.int32)


def weights_given(weights: list[Tensor], masks: list[Tensor]) -> WeightsFunction:
    """Layer by layer, masked and rounded by torch, the range of each channel being known."""
    known = [_quantizer_of(w.detach() * mask) for w, mask in zip(weights, masks, strict=True)]

    def function(weights: list[Tensor]) -> list[Tensor]:
        return [
            torch.fake_quantize_per_channel_affine(w * mask, scale, zero, 0, 0, TOP)
            for w, mask, (scale, zero) in zip(weights, masks, known, strict=True)
        ]

    return function


def weights_found(masks: list[Tensor]) -> WeightsFunction:
    """As `weights_given`, with the range of each channel found first, as ours does."""

    def layer(w: Tensor, mask: Tensor) -> Tensor:
        masked = w * mask
        with torch.no_grad():
            scale, zero = _quantizer_of(masked)
        return torch.fake_quantize_per_channel_affine(masked, scale, zero, 0, 0, TOP)

    return lambda weights: [layer(w, mask) for w, mask in zip(weights, masks, strict=True)]
