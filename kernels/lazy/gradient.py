"""The gradient to a block's values, as what a kernel is to do rather than as numbers.

Each node of a block hands the next one a `LazyGradient`: the gradient from outside and what it has
to go through. The last node does all of it in one pass over memory. Whoever else looks at it, a
hook, a retained gradient, a second reader's sum, finds the numbers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..operands import Coding
from ..scheme import Function, Scheme
from ..shapes import in_order, strides_of
from .block import Block
from .pending import Cell, PendingTensor

_OP = torch.ops.micronet


class Target(enum.Enum):
    """What a plan is the gradient to: the state that it is in on its way back."""

    VALUES = "the block's values, as they were read"
    INPUT = "what the block's function was called on"
    SUMS = "what the block's normalization was called on, the values of sums"


@dataclass(frozen=True)
class Plan:
    """A gradient to the values of a block, or to what they come from.

    The gradient to the values is `grad` where `coding` lets it pass, else 0, plus `mean_grad` at
    every position; the one to the function's input is that times the function's slope; the one to
    the values of the sums is dz * k[0] + sums * k[1] + k[2], dz being the one to the normalized
    values.

    Attributes:
        grad: [N, C, H, W], of any float type, None for zeros.
        coding: what the values were rounded by, None where everything passes.
        mean_grad: [N, C], None for zeros.
        target: what this is the gradient to.
        versions: of both gradients when they came.
        k: [3, C], None but for the target SUMS.
    """

    block: Block
    grad: Tensor | None = field(default=None, repr=False)
    coding: Coding | None = None
    mean_grad: Tensor | None = field(default=None, repr=False)
    target: Target = Target.VALUES
    versions: tuple[int, int] = (0, 0)
    k: Tensor | None = field(default=None, repr=False)

    @staticmethod
    def of(
        block: Block,
        grad: Tensor | None = None,
        coding: Coding | None = None,
        mean_grad: Tensor | None = None,
    ) -> Plan:
        """The plan of gradients as they are now."""
        return Plan(block, grad, coding, mean_grad, versions=(_version(grad), _version(mean_grad)))

    def check(self) -> None:
        """Raise RuntimeError where a gradient was overwritten that this one has not read yet."""
        if self.versions != (_version(self.grad), _version(self.mean_grad)):
            raise RuntimeError(
                "a gradient was modified in place before the one that follows from it was read; "
                "modify a copy of it"
            )

    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the operators that take the gradient through the function."""
        self.check()
        none, like = self.block.none(), self.block.sums
        grad = _zeros(like) if self.grad is None else self.grad
        return (
            grad.contiguous(memory_format=torch.channels_last),
            *self.block.affine(),
            *self.rounding(),
            none if self.mean_grad is None else self.mean_grad.contiguous(),
        )

    def rounding(self) -> Coding:
        """What the operators take for `coding`."""
        if self.coding is not None:
            return self.coding
        return Coding(self.block.none(), 2, int(Scheme.AFFINE))

    def before_function(self) -> Plan:
        """The gradient to what the block's function was called on."""
        return self._to(Target.INPUT)

    def before_norm(self, k: Tensor) -> Plan:
        """The gradient to the values of the sums, through the map k [3, C] of a normalization."""
        return self._to(Target.SUMS, k)

    def _to(self, target: Target, k: Tensor | None = None) -> Plan:
        return Plan(self.block, self.grad, self.coding, self.mean_grad, target, self.versions, k)

    def values(self) -> Tensor:
        """The gradient itself, float32 [N, C, H, W], in the block's order in memory."""
        self.check()
        is_read = self.target is Target.VALUES
        values = self._to_values() if is_read else self.through_function(torch.float32)
        return in_order(values, self.block.channels_last)

    def through_function(self, dtype: torch.dtype) -> Tensor:
        """The gradient beyond the function, [N, C, H, W], channels last, rounded to a dtype."""
        k = unchanged(self.block.scale) if self.k is None else self.k
        return _OP.block_gradient.default(*self.arguments(), k, dtype)

    def _to_values(self) -> Tensor:
        passed = self._grad_as_float() if self.coding is None else self._inside()
        if self.mean_grad is None:
            assert passed is not None
            return passed
        means = self.mean_grad[:, :, None, None]
        return means.expand(self.block.size) if passed is None else passed + means

    def _grad_as_float(self) -> Tensor | None:
        return None if self.grad is None else self.grad.float()

    def _inside(self) -> Tensor | None:
        if self.grad is None:
            return None
        grad = self.grad.contiguous(memory_format=torch.channels_last)
        ones = torch.ones(grad.shape[:2], dtype=torch.float32, device=grad.device)
        block = self.block
        if block.gate is not None:
            # A gate of ones lets a gradient through as it is; one that is there has had its turn.
            values = _OP.block_values.default(*block.gated())
            block = Block(values, ones[0], None, channels_last=True)
        return _OP.block_gate_gradient.default(grad, *block.affine(), ones, *self.rounding())[0]


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.float32, device=like.device)


def _version(t: Tensor | None) -> int:
    return 0 if t is None or t.is_inference() else t._version


def unchanged(scale: Tensor) -> Tensor:
    """The map [3, C] of `block_gradient` that leaves a gradient as it is."""
    k = torch.zeros(3, len(scale), dtype=torch.float32, device=scale.device)
    k[0] = 1.0
    return k


class LazyGradient(PendingTensor):
    """The gradient of a `Plan`."""

    # A plan without a range gives the very gradient that it was given.
    _MAY_BORROW = True

    @staticmethod
    def of(plan: Plan) -> LazyGradient:
        """A gradient that waits."""
        block = plan.block
        return LazyGradient._make(
            block.size, strides_of(block.size, block.channels_last), block.scale.device, Cell(plan)
        )

    def plan(self) -> Plan | None:
        """What is to be done, None where the numbers have been changed since."""
        source = self._cell.source
        return source if isinstance(source, Plan) else None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            # What is kept, as .grad, is numbers: the gradient that came may be overwritten.
            return args[0]._open().detach()
        if func is torch.ops.aten.add.Tensor and not kwargs:
            total = _sum(*args)
            if total is not None:
                return LazyGradient.of(total)
        return super().__torch_dispatch__(func, types, args, kwargs)


def _sum(first: Any, second: Any) -> Plan | None:
    """The plan of what two readers of one block's values send back; None where it has none."""
    plans = [g.plan() if isinstance(g, LazyGradient) else None for g in (first, second)]
    known = [plan for plan in plans if plan is not None and plan.target is Target.VALUES]
    if not known or any(plan.block.key is not known[0].block.key for plan in known):
        return None
    if len(known) == 1:
        # The other is numbers, which no range has cut yet.
        other = second if plans[0] is known[0] else first
        if isinstance(other, LazyGradient) or known[0].grad is not None:
            return None
        if not isinstance(other, Tensor) or other.shape != known[0].block.size:
            return None
        if other.dtype != torch.float32:
            return None
        known[0].check()
        return Plan.of(known[0].block, other, None, known[0].mean_grad)
    one, two = known
    if one.grad is not None and two.grad is not None:
        return None
    one.check()
    two.check()
    has_grad = one if one.grad is not None else two
    means = _added(one.mean_grad, two.mean_grad)
    return Plan.of(has_grad.block, has_grad.grad, has_grad.coding, means)


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def plan_to_values(grad: Tensor, block: Block) -> Plan:
    """The plan of a gradient to a block's values, whatever form it comes in."""
    plan = grad.plan() if isinstance(grad, LazyGradient) else None
    if plan is not None and plan.block.key is block.key and plan.target is Target.VALUES:
        return plan
    return Plan.of(block, numbers(grad))


def plan_to_affine(grad: Tensor, block: Block) -> Plan:
    """The plan of a gradient to fma(sums, scale, shift) of a block, whatever form it comes in."""
    plan = grad.plan() if isinstance(grad, LazyGradient) else None
    if plan is not None and plan.block.affine_key is block.affine_key:
        is_identity = plan.block.function == Function.IDENTITY and plan.block.gate is None
        if plan.target is Target.INPUT or (plan.target is Target.VALUES and is_identity):
            return plan
    return Plan.of(block.with_function(Function.IDENTITY), numbers(grad))


def numbers(grad: Tensor) -> Tensor:
    """A gradient as an ordinary tensor."""
    return grad.memory() if isinstance(grad, PendingTensor) else grad


_REFUSED = (
    "a convolution of integers has a first derivative only: what create_graph=True was asked for "
    "needs a second one"
)


class _Refusal(torch.autograd.Function):
    """Gradients, the first `count` tensors, as they are; a path through it ends in a refusal."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.view_as(g) for g in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(_REFUSED)


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a node's backward pass refuse a second derivative in one sentence, where it is taken.

    By whatever it is taken: what the node was sent and what it has saved lead to the parameters
    and, through the loss, to all that came before.
    """

    def run(ctx: Any, *grads: Tensor | None) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            found = backward(ctx, *grads)
            several = found if isinstance(found, tuple) else (found,)
            ordinary = [None if g is None else numbers(g).detach() for g in several]
        for g in ordinary:
            if g is not None:
                g.requires_grad_()
        return _Refusal.apply(len(ordinary), *ordinary, *grads, *ctx.saved_tensors)

    return run
