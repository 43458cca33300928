"""The nodes of autograd that make up a block, one for each thing that is called on it.

Each node is the edge of the tensor that it returns, so that whatever autograd offers, a hook, a
retained gradient, `autograd.grad` to it, a cut, is about that tensor and nothing else. What nodes
send each other is a `LazyGradient`; docs/integer_training.md has a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..operands import Coding
from ..shapes import in_order, is_channels_last, strides_of
from . import norm
from .block import Block, Remade
from .convolution import (
    ConvCall,
    QuantizedInput,
    QuantizedWeights,
    backward_precision,
    sums_of,
)
from .convolution_gradient import StoredImages, convolution_backward
from .gradient import (
    LazyGradient,
    Plan,
    Target,
    first_order,
    numbers,
    plan_to_affine,
    plan_to_values,
)
from .norm import Statistics

_OP = torch.ops.micronet

# Makes the tensor of a block.
Wrap = Callable[[Block], Tensor]
# Of a node's operands, the first ones; the others have none.
Gradients = tuple[Tensor | None, ...]


def _keep(ctx: Any, block: Block, *tensors: Tensor | None) -> None:
    """Keep a block for the backward pass, and tensors, which are saved before its own."""
    ctx.save_for_backward(*tensors, *block.to_save())
    ctx.block = block.outline()
    ctx.set_materialize_grads(False)


def _backward(gradients: Callable[[Any, Tensor], Gradients]) -> Callable[..., Gradients]:
    """Make the backward pass of a node: None for every operand where no gradient comes."""

    def run(ctx: Any, grad: Tensor | None) -> Gradients:
        found = () if grad is None else gradients(ctx, grad)
        return *found, *(None,) * (len(ctx.needs_input_grad) - len(found))

    return first_order(run)


def convolved(
    x: QuantizedInput,
    w: Tensor,
    bias: Tensor | None,
    weights: QuantizedWeights,
    call: ConvCall,
    remade: Remade | None = None,
) -> Block:
    """The values of a convolution of codes, whose sums are made again where they are not kept."""
    sums, scale = sums_of(x.codes, x.coding, x.size, w, weights, call)
    shift = None if bias is None else bias.detach().float().clone()
    is_last = x.lies_channels_last or is_channels_last(w)
    return Block(sums, scale, shift, is_last, remade, None if remade is None else x.codes)


class ConvolutionNode(torch.autograd.Function):
    """From the tensor that was rounded to the values of a convolution of its codes.

    Its operands are that tensor, the weights and the bias; the step and the offset of a learned
    input; the steps of learned weights; then what is no tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        w: Tensor,
        bias: Tensor | None,
        step: Tensor | None,
        offset: Tensor | None,
        weight_step: Tensor | None,
        x: QuantizedInput,
        weights: QuantizedWeights,
        call: ConvCall,
        remakes: bool,
        wrap: Wrap,
    ) -> Tensor:
        remade = Remade(_remaking(x.coding, x.size, w, weights, call)) if remakes else None
        passes = x.passes.to_save() if isinstance(x.passes, Block) else (x.passes,)
        block = convolved(x, w, bias, weights, call, remade)
        # Not the sums: the backward pass of a convolution has no use for its own output.
        ctx.save_for_backward(w, x.codes, x.coding.range, weights.mask, weights.steps, *passes)
        ctx.input, ctx.weights = _InputRounding.of(x), weights.without_tensors()
        ctx.call, ctx.precision = call, backward_precision(w.device.type)
        ctx.block, ctx.has_bias = block.outline(), bias is not None
        ctx.set_materialize_grads(False)
        return wrap(block)

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        w, codes, range, mask, steps, *passes = ctx.saved_tensors
        weights = ctx.weights.with_tensors(mask, steps)
        # What is as large as images is a temporary: none of it is left when sums are made again.
        grad_bias, grad_x, grad_w = _through_values(ctx, grad, w, codes, range, weights)
        grad_steps, grad_weight_step = [None, None], None
        if grad_w is not None:
            grad_w = grad_w.float().contiguous()
            levels = ctx.call.weight_levels
            grad_w, grad_weight_step = weights.gradients(grad_w, w.contiguous(), levels)
        if grad_x is not None:
            grad_x, *grad_steps = ctx.input.through(grad_x, range, passes)
        found = grad_x, grad_w, grad_bias, *grad_steps, grad_weight_step
        wanted = ctx.needs_input_grad
        return tuple(g if wants else None for g, wants in zip(found, wanted, strict=False))


def _through_values(
    ctx: Any, grad: Tensor, w: Tensor, codes: Tensor, range: Tensor, weights: QuantizedWeights
) -> Gradients:
    """The gradients to the bias, to the values of the codes and to those of the weights."""
    source, weight, bias, step, _, weight_step = ctx.needs_input_grad[:6]
    has_bias = ctx.has_bias and bias
    values, grad_bias = _through_sums(ctx.block, grad, has_bias, ctx.precision)
    w_hat = weights.values(w.contiguous(), ctx.call.weight_levels)
    x = StoredImages(codes, ctx.input.coding(range), ctx.input.size)
    wanted = source or step, weight or weight_step
    return grad_bias, *convolution_backward(values, x, w_hat.float(), ctx.call, wanted)


@dataclass(frozen=True)
class _InputRounding:
    """How the input of a convolution was rounded, without its tensors.

    Attributes:
        passes: the outline of the block that was rounded, None where bits say what passes.
        is_block: whether the source is that block's own tensor, to which a plan goes back.
        scales: of the gradients to step and offset, None where the step follows a range.
    """

    levels: int
    scheme: int
    size: torch.Size
    channels_last: bool
    passes: Block | None
    is_block: bool
    scales: tuple[float, float] | None

    @staticmethod
    def of(x: QuantizedInput) -> _InputRounding:
        passes = x.passes.outline() if isinstance(x.passes, Block) else None
        learned = x.learned
        scales = None if learned is None else (learned.gradient_scale, learned.offset_scale)
        _, levels, scheme = x.coding
        last = x.lies_channels_last
        return _InputRounding(levels, scheme, x.size, last, passes, x.is_block, scales)

    def coding(self, range: Tensor) -> Coding:
        """The coding, with its tensor."""
        return Coding(range, self.levels, self.scheme)

    def through(self, grad: Tensor, range: Tensor, saved: list[Tensor]) -> Gradients:
        """The gradients to the tensor that was rounded, to the step and to the offset."""
        if self.passes is None:
            grad = _OP.fake_quant_per_tensor_backward.default(grad, *saved).float()
            return grad if self.channels_last else grad.contiguous(), None, None
        block, coding = self.passes.restored(*saved), self.coding(range)
        steps: Gradients = (None, None)
        if self.scales is not None:
            sums = block.step_sums(grad, coding).float().split(1)
            steps = tuple(s * scale for s, scale in zip(sums, self.scales, strict=True))
        plan = Plan.of(block, grad, coding)
        return LazyGradient.of(plan) if self.is_block else plan.values(), *steps


def _remaking(
    coding: Coding, size: torch.Size, w: Tensor, weights: QuantizedWeights, call: ConvCall
) -> Callable[[Tensor], Tensor]:
    """What makes the sums again from the codes of the input, with the weights that there were.

    It lives as long as the graph does, and so holds nothing that is as large as images.
    """
    weight, version = w.detach(), w._version

    def remake(codes: Tensor) -> Tensor:
        if weight._version != version:
            raise RuntimeError(
                "the weights of a convolution whose integers are made again were modified in place "
                "between its forward and its backward pass"
            )
        return sums_of(codes, coding, size, weight, weights, call)[0]

    return remake


def _through_sums(
    outline: Block, grad: Tensor, has_bias: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """The gradient to the values of sums, as numbers, and its sum over a channel where wanted."""
    plan = grad.plan() if isinstance(grad, LazyGradient) else None
    if plan is not None and plan.target is Target.SUMS and not has_bias:
        return plan.through_function(dtype), None
    if plan is None or plan.block.affine_key is not outline.affine_key:
        values = numbers(grad)
        total = torch.sum(values, (0, 2, 3), dtype=torch.float64).float() if has_bias else None
        return values.to(dtype), total
    outline.drop_remade()
    plan = plan_to_affine(grad, plan.block)
    total = None
    if has_bias:
        total = _OP.block_gradient_sums.default(*plan.arguments())[0].float()
    return plan.through_function(dtype), total


class WaitNode(torch.autograd.Function):
    """From images to themselves as a block."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, block: Block, wrap: Wrap) -> Tensor:
        ctx.block = block.outline()
        ctx.set_materialize_grads(False)
        return wrap(block)

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        grad, _ = _through_sums(ctx.block, grad, False, torch.float32)
        return (in_order(grad, ctx.block.channels_last),)


class NormNode(torch.autograd.Function):
    """From the values of sums to the normalized ones."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        block: Block,
        dequant_scale: Tensor,
        statistics: Statistics,
        eps: float,
        wrap: Wrap,
    ) -> Tensor:
        _keep(ctx, block, weight, dequant_scale, *statistics.to_save())
        ctx.statistics, ctx.eps, ctx.has_bias = statistics, eps, bias is not None
        ctx.waits = backward_precision(block.scale.device.type) != torch.float32
        return wrap(block)

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        weight, dequant_scale, mean, variance, *saved = ctx.saved_tensors
        statistics = ctx.statistics.restored(mean, variance)
        block = ctx.block.restored(*saved)
        out, grad_weight, grad_bias = norm.backward(
            plan_to_affine(grad, block), statistics, ctx.eps, weight, dequant_scale, ctx.waits
        )
        block.drop_remade()
        return out, grad_weight, grad_bias if ctx.has_bias else None


class ActivationNode(torch.autograd.Function):
    """From normalized values to those of an activation function, in place or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, in_place: bool, wrap: Wrap) -> Tensor:
        _keep(ctx, block)
        if in_place:
            ctx.mark_dirty(x)
        return wrap(block)

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        plan = plan_to_values(grad, ctx.block.restored(*ctx.saved_tensors))
        return (LazyGradient.of(plan.before_function()),)


class GateNode(torch.autograd.Function):
    """From values and one factor for each image and channel to their product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, block: Block, wrap: Wrap) -> Tensor:
        _keep(ctx, block)
        ctx.gate_size = gate.shape
        return wrap(block)

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        block = ctx.block.restored(*ctx.saved_tensors)
        plan = plan_to_values(grad, block)
        if plan.grad is None or plan.mean_grad is not None:
            plan = Plan.of(block, plan.values())
        plan.check()
        assert plan.grad is not None and block.gate is not None
        to_values, to_gate = _OP.block_gate_gradient.default(
            plan.grad.contiguous(memory_format=torch.channels_last),
            *block.affine(),
            block.gate,
            *plan.rounding(),
        )
        return to_values, to_gate.view(ctx.gate_size)


class MeansNode(torch.autograd.Function):
    """From values to their means over the positions, [N, C] or [N, C, 1, 1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, keepdim: bool) -> Tensor:
        _keep(ctx, block)
        ctx.positions = block.size[2] * block.size[3]
        means = _OP.block_means.default(*block.affine())
        if not keepdim:
            return means
        size = torch.Size((*means.shape, 1, 1))
        # A tensor of its own, in the strides that torch's own average has.
        pooled = means.new_empty_strided(size, strides_of(size, block.channels_last))
        return pooled.copy_(means[:, :, None, None])

    @staticmethod
    @_backward
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        block = ctx.block.restored(*ctx.saved_tensors)
        means = grad.reshape(block.size[:2]) / ctx.positions
        return (LazyGradient.of(Plan.of(block, mean_grad=means)),)
