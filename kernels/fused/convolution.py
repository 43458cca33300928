"""A convolution of codes as a node of autograd: forward in integers, backward from the codes."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scheme import Scheme
from ..shapes import ConvShape

_OP = torch.ops.micronet


def ghost(shape: torch.Size | tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor of a shape with one element in memory, NaN: it only carries the gradient."""
    return torch.full((1,), torch.nan, device=device).expand(shape)


@dataclass(frozen=True)
class ConvCall:
    """The numbers of a convolution: (y, x) sizes, padding (top, left, bottom, right)."""

    levels: int
    weight_levels: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def arguments(self, x: "QuantisedInput", w: Tensor, mask: Tensor) -> tuple[Any, ...]:
        """The arguments of the operator `quant_conv2d`."""
        sizes = [list(x.size), *map(list, (self.stride, self.padding, self.dilation))]
        return x.codes, x.range, self.levels, w, mask, self.weight_levels, *sizes, self.groups


@dataclass(frozen=True)
class QuantisedInput:
    """What a convolution reads: codes, two a byte, channels last, and the range they stand for.

    `carrier` has the shape of the values; gradients to the values are gradients to it.
    """

    carrier: Tensor
    codes: Tensor
    range: Tensor

    @property
    def size(self) -> torch.Size:
        """[N, C, H, W]."""
        return self.carrier.shape


class _Codes(torch.autograd.Function):
    """Codes of a float tensor under a range; keeps one bit of each element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, range: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        codes, inside, _ = _OP.quantize_per_tensor.default(x, range, levels, int(Scheme.AFFINE))
        ctx.save_for_backward(inside)
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        return ghost(x.shape, x.device), codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        (inside,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        return _OP.fake_quant_per_tensor_backward.default(grad, inside), None, None


def quantise_input(x: Tensor, range: Tensor, levels: int) -> QuantisedInput:
    """The codes of images x [N, C, H, W], of any float type, under range [2]; with their gradient.

    The gradient is 1 where x lies inside the range, else 0; x itself is not kept.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    carrier, codes = _Codes.apply(x, range, levels)
    # The range moves on with the next batch, these codes do not.
    return QuantisedInput(carrier, codes, range.clone())


def _precision(device_type: str) -> torch.dtype:
    """The dtype that a backward convolution computes in: that of torch.autocast, where it is on."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return torch.float32


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, carrier: Tensor, w: Tensor, x: QuantisedInput, mask: Tensor, call: ConvCall
    ) -> tuple[Tensor, Tensor, Tensor]:
        acc, ratio = _OP.quant_conv2d.default(*call.arguments(x, w, mask))
        ctx.save_for_backward(w, x.codes, x.range, mask)
        ctx.call, ctx.size, ctx.precision = call, x.size, _precision(acc.device.type)
        ctx.mark_non_differentiable(acc, ratio)
        ctx.set_materialize_grads(False)
        return ghost(acc.shape, acc.device), acc, ratio

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        w, codes, range, mask = ctx.saved_tensors
        x_hat = unpacked(codes, range, ctx.call.levels, ctx.size)
        w_hat, _, _ = _OP.fake_quant_per_channel.default(
            w, mask, ctx.call.weight_levels, int(Scheme.AFFINE)
        )
        wanted = ctx.needs_input_grad[:2]
        grad, x_hat, w_hat = (t.to(ctx.precision) for t in (grad, x_hat, w_hat))
        grad_x, grad_w = convolution_backward(grad, x_hat, w_hat, ctx.call, wanted)
        grad_x, grad_w = (None if t is None else t.float() for t in (grad_x, grad_w))
        if grad_w is not None:
            grad_w = grad_w.contiguous()
            grad_w = _OP.mask_gradient.default(grad_w, mask) if mask.numel() else grad_w
        return grad_x, grad_w, None, None, None


def integers(x: QuantisedInput, w: Tensor, mask: Tensor, call: ConvCall) -> Tensor:
    """The integers of `quant_conv2d`, without a gradient."""
    return _OP.quant_conv2d.default(*call.arguments(x, w.contiguous(), mask))[0]


def unpacked(codes: Tensor, range: Tensor, levels: int, size: torch.Size) -> Tensor:
    """The values that codes stand for, float32 [N, C, H, W], channels last."""
    n, c, h, w = size
    flat = _OP.dequantize_per_tensor.default(codes, range, size.numel(), levels, int(Scheme.AFFINE))
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def convolution_backward(
    grad: Tensor, x: Tensor, w: Tensor, call: ConvCall, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of an ordinary convolution over the values to x and to w, None if not wanted."""
    top, left, bottom, right = call.padding
    is_even = (top, left) == (bottom, right)
    padding = [top, left] if is_even else [0, 0]
    if not is_even:
        x = F.pad(x, [left, right, top, bottom])
    w = w.contiguous(memory_format=torch.channels_last)
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward.default(
        grad.contiguous(memory_format=torch.channels_last),
        x,
        w,
        None,
        list(call.stride),
        padding,
        list(call.dilation),
        False,
        [0, 0],
        call.groups,
        [*wanted, False],
    )
    if grad_x is not None and not is_even:
        height, width = x.shape[2] - top - bottom, x.shape[3] - left - right
        grad_x = grad_x[:, :, top : top + height, left : left + width]
    return grad_x, grad_w


def quant_conv2d(
    x: QuantisedInput, w: Tensor, mask: Tensor, call: ConvCall
) -> tuple[Tensor, Tensor, Tensor]:
    """The integers of a convolution of codes with w [O, C / groups, KH, KW], masked and rounded.

    Returns a carrier [N, O, H', W'] whose gradient is that to the values, the integers, and the
    ratio [O] that turns them into values. An empty mask keeps all weights; the gradient of w is
    masked. Under torch.autocast the backward pass computes in its dtype; the integers are the same.
    Raises ValueError for sizes or levels, TypeError for a dtype. Source: the quantiser of Jacob et
    al. 2018, arXiv:1712.05877, section 2.
    """
    return _Convolution.apply(x.carrier, w.contiguous(), x, mask, call)


def output_size(x: QuantisedInput, w: Tensor, call: ConvCall) -> tuple[int, int, int, int]:
    """[N, O, H', W'] of a convolution; ValueError where the sizes do not fit."""
    return ConvShape.of(
        x.size, w.shape, call.stride, call.padding, call.dilation, call.groups
    ).output_size
