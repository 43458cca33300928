"""A tensor that is computed when it is known who reads it.

A convolution of codes returns integers; what a network does with them next, normalize, activate,
average, gate and round again, is noted and done in one go by the reader. Any other use computes
the values first, so that a network needs no rewriting: it works, only without the saving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..scheme import Function
from ..shapes import is_channels_last, strides_of
from . import functions, tracing
from .block import Block
from .convolution import ConvCall, Learned, QuantizedInput, QuantizedWeights
from .nodes import (
    ActivationNode,
    ConvolutionNode,
    GateNode,
    MeansNode,
    NormNode,
    WaitNode,
    convolved,
)
from .norm import Norm, of_batch, of_running
from .pending import Cell, PendingTensor
from .recompute import is_recomputed

_OP = torch.ops.micronet


class LazyTensor(PendingTensor):
    """Images [N, C, H, W] that wait for their reader: the values of a `Block`.

    Reads like the tensor that it stands for, and is one for autograd, hooks and writes in place.
    docs/integer_training.md says how.
    """

    # How one comes about -------------------------------------------------------------------------

    @staticmethod
    def of(block: Block) -> LazyTensor:
        """The values of a block, without an edge."""
        return LazyTensor._make(
            block.size, strides_of(block.size, block.channels_last), block.scale.device, Cell(block)
        )

    @staticmethod
    def convolve(
        x: QuantizedInput,
        w: Tensor,
        weights: QuantizedWeights,
        bias: Tensor | None,
        call: ConvCall,
    ) -> LazyTensor:
        """A convolution of codes with w [O, C / groups, KH, KW], masked and rounded, plus bias [O].

        The gradient of w is masked; learned steps and offsets have gradients too. Under
        torch.autocast the backward pass computes in its dtype; the integers are the same. Raises
        ValueError for sizes or levels, TypeError for a dtype. Source: the quantizer of Jacob et al.
        2018, arXiv:1712.05877, section 2; learned steps as in `fake_quant_learned_step`, offsets as
        in Bhalgat et al. 2020, arXiv:2004.09576, section 3.
        """
        if not _is_recorded():
            return LazyTensor.of(convolved(x, w, bias, weights, call))
        remakes = torch.is_grad_enabled() and is_recomputed(x, w, call)
        of_input, of_weights = (side.learned or _FIXED for side in (x, weights))
        parameters = of_input.step, of_input.offset, of_weights.step
        return ConvolutionNode.apply(
            x.source, w, bias, *parameters, x, weights, call, remakes, LazyTensor.of
        )

    @staticmethod
    def wait(y: Tensor, channels_last: bool | None = None) -> LazyTensor:
        """Images y, such as a float convolution's, whose successors are to wait, in float32.

        They lie in memory as y does, unless told otherwise.
        """
        y = y.float()
        if channels_last is None:
            channels_last = is_channels_last(y)
        sums = y.detach().contiguous(memory_format=torch.channels_last)
        ones = torch.ones(y.shape[1], dtype=torch.float32, device=y.device)
        block = Block(sums, ones, None, channels_last)
        return _waiting(block, WaitNode, y, block)

    # What it is ----------------------------------------------------------------------------------

    def block(self) -> Block | None:
        """The block whose values these are, None once others may have written to them."""
        source = self._cell.source
        return source if isinstance(source, Block) else None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        call = functions.TABLE.get(func)
        if call is not None and not tracing.is_tracing():
            bound = call.bind(args, kwargs or {})
            if bound is not None:
                with torch._C.DisableTorchFunctionSubclass():
                    result = getattr(_Blocks, call.method)(**bound)
                if result is not None:
                    return result
        return super().__torch_function__(func, types, args, kwargs)


def block_of(x: Any) -> Block | None:
    """The block that x stands for, None where it is an ordinary tensor or none at all."""
    return x.block() if isinstance(x, LazyTensor) else None


# In the place of the parameters of a quantizer that has none.
_FIXED = Learned(None)  # type: ignore[arg-type]


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Normalize images by the statistics of the whole batch of a group of processes.

    All of them have to normalize the same layers in the same order. Source: as
    torch.nn.SyncBatchNorm, also on the CPU.
    """
    block = block_of(x)
    if block is None or not block.takes_norm:
        # A copy: others may write to x before the values are computed.
        x = LazyTensor.wait(x.clone())
    found = _Blocks.normalize(
        x, running_mean, running_var, weight, bias, True, momentum, eps, group=group
    )
    assert found is not None
    return found


# The axes of the positions, in torch's spellings.
_POSITIONS = ({2, 3}, {-1, -2}, {2, -1}, {-2, 3})


def _activation(function: Function, in_place: bool = False) -> Callable[..., Tensor | None]:
    """A call of an activation function, in place where its name or `inplace` says so."""

    def call(x: Any, inplace: bool = in_place) -> Tensor | None:
        return _activate(x, function, inplace)

    return call


class _Blocks:
    """What torch's functions do with a tensor that waits; None where it has to be computed."""

    @staticmethod
    def normalize(
        x: Any,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor | None:
        block = block_of(x)
        if block is None or not block.takes_norm or not eps > 0:
            return None
        if not _fit(block, weight, bias) or not _fit(block, running_mean, running_var):
            # torch refuses it, or knows what it means.
            return None
        if (running_mean is None) != (running_var is None):
            return None
        norm = Norm(weight, bias, running_mean, running_var, momentum, eps)
        if training:
            if group is None and block.sums.numel() == block.size[1]:
                # torch refuses the statistics of a single value in its own words.
                return None
            statistics, scale, shift = of_batch(norm, block.sums, block.scale, block.shift, group)
        elif running_mean is None:
            return None
        else:
            statistics, scale, shift = of_running(norm, block.scale, block.shift)
        new = block.with_affine(scale, shift)
        return _waiting(new, NormNode, x, weight, bias, new, block.scale, statistics, eps)

    relu = _activation(Function.RELU)
    relu_ = _activation(Function.RELU, in_place=True)
    silu = _activation(Function.SWISH)
    sigmoid = _activation(Function.SIGMOID)
    sigmoid_ = _activation(Function.SIGMOID, in_place=True)

    @staticmethod
    def average(x: Any, output_size: Any) -> Tensor | None:
        block = block_of(x)
        if block is None or block.gate is not None:
            return None
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
        if tuple(sizes) != (1, 1):
            return None
        return MeansNode.apply(x, block, True)

    @staticmethod
    def mean(x: Any, dim: Any = None, keepdim: bool = False) -> Tensor | None:
        if not isinstance(dim, (tuple, list)) or set(dim) not in _POSITIONS or len(dim) != 2:
            return None
        block = block_of(x)
        if block is None or block.gate is not None:
            return None
        return MeansNode.apply(x, block, bool(keepdim))

    @staticmethod
    def multiply(x: Any, other: Any) -> Tensor | None:
        """A product with a gate, one factor for each image and channel."""
        for images, gate in ((x, other), (other, x)):
            block = block_of(images)
            if block is not None and block.gate is None and _is_gate(gate, block):
                factors = gate.memory() if isinstance(gate, PendingTensor) else gate.detach()
                # A copy: the product is that of the factors as they are now.
                factors = factors.flatten(1).to(torch.float32, copy=True)
                factors = factors.contiguous()
                new = block.with_gate(factors)
                return _waiting(new, GateNode, images, gate, new)
        return None


def _activate(x: Any, function: Function, in_place: bool) -> Tensor | None:
    block = block_of(x)
    if block is None or not block.takes_function:
        return None
    if not in_place:
        return activation(x, block, function)
    if x.is_leaf and x.requires_grad and torch.is_grad_enabled():
        # Torch refuses it, in its own words.
        return None

    def replace(block: Block) -> Tensor:
        x._cell.replace(block)
        return x

    return ActivationNode.apply(x, block.with_function(function), True, replace)


def activation(x: Tensor, block: Block, function: Function) -> Tensor:
    """The function of x, whose block takes one."""
    new = block.with_function(function)
    return _waiting(new, ActivationNode, x, new, False)


def _waiting(block: Block, node: type[torch.autograd.Function], *args: Any) -> LazyTensor:
    """What waits for a block, by a node where derivatives may be asked for."""
    if not _is_recorded():
        return LazyTensor.of(block)
    waiting: LazyTensor = node.apply(*args, LazyTensor.of)
    return waiting


def _is_recorded() -> bool:
    """Whether derivatives may be asked for, of which a node takes care."""
    return torch.is_grad_enabled() or torch.autograd.forward_ad._current_level >= 0


def _fit(block: Block, *of_channels: Tensor | None) -> bool:
    """Whether tensors are one float32 number for each channel, where they are given."""
    size = (block.size[1],)
    return all(t is None or (t.dtype == torch.float32 and t.shape == size) for t in of_channels)


def _is_gate(gate: Any, block: Block) -> bool:
    if not isinstance(gate, Tensor) or not tracing.is_eager(gate):
        return False
    return gate.shape == (*block.size[:2], 1, 1) and gate.dtype == torch.float32
