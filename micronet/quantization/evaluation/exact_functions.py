"""Functions of torch between the layers of a quantized network, in evaluation.

A mean over positions, a swish or a sigmoid of what is no block's value is torch's own, whose last
bits depend on the device, on its threads or on the order of memory. While a quantized network is
called in evaluation mode, those of ``micronet_kernels`` take their place, whose bits do not. Hooks
of the network begin and end that, so that nothing else in the process is touched.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _get_function_stack_at as _at
from torch._C import _len_torch_function_stack as _depth
from torch._C import _pop_torch_function_stack as _pop
from torch._C import _push_on_torch_function_stack as _push
from torch.overrides import TorchFunctionMode

import micronet_kernels as kernels

_Arguments = dict[str, Any]
# Returns what a call gives; None where it is torch's own to answer.
_Answer = Callable[[_Arguments], Tensor | None]
_Layer = TypeVar("_Layer", bound=nn.Module)

# No number, as those of handles are: one of a process that reads a pickled network may be the same.
_KEY: Any = "micronet.exact_functions"


def evaluate_exactly_(model: nn.Module) -> None:
    """Let a network's functions between layers have one arithmetic in evaluation, in place.

    It holds while the module itself is called; whoever calls its ``forward``, or a module in it,
    gets torch's own functions. Under tracing, too, they stay torch's.
    """
    model._forward_pre_hooks[_KEY] = _enter
    hooks: Any = model._forward_hooks
    hooks[_KEY] = _leave
    # The first to leave is the last that entered.
    hooks.move_to_end(_KEY, last=False)
    model._forward_hooks_always_called[_KEY] = True


def _enter(module: nn.Module, inputs: object) -> None:
    if module.training or not kernels.is_eager():
        return
    _remove(lambda mode: not mode.is_alive())
    _push(_ExactFunctions(sys._getframe(1)))


def _leave(module: nn.Module, inputs: object, output: object) -> None:
    if torch.compiler.is_compiling():
        return
    call = sys._getframe(1)
    # Where the network has raised, its call is over by now.
    _remove(lambda mode: mode.call is call or not mode.is_alive())


def _remove(unwanted: Callable[[_ExactFunctions], bool]) -> None:
    """Take modes of ours off this thread's stack, whatever others lie upon them."""
    found = [_at(i) for i in range(_depth())]
    kept = [m for m in found if not (isinstance(m, _ExactFunctions) and unwanted(m))]
    if len(kept) < len(found):
        for _ in found:
            _pop()
        for mode in kept:
            _push(mode)


class _ExactFunctions(TorchFunctionMode):
    """Answers functions in the stated arithmetic while a network is being called.

    Args:
        call: the frame of the call. Hooks do not see an interrupt from the keyboard; where the call
            is over without them, the mode answers no more.
    """

    def __init__(self, call: FrameType) -> None:
        super().__init__()
        self.call = call

    def is_alive(self) -> bool:
        """Whether the call is under way, in this thread."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.call:
            frame = frame.f_back
        return frame is not None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer a call, or hand it on."""
        kwargs = kwargs or {}
        if func in _TABLE and _takes(func, args, kwargs) and self.is_alive():
            names, answer = _TABLE[func]
            bound = _bound(names, args, kwargs)
            result = None if bound is None else answer(bound)
            if result is not None:
                return result
        if kernels.LazyTensor in types and _OURS.issuperset(types) and not _depth():
            # As torch would, after it had looked at all arguments once more.
            return kernels.LazyTensor.__torch_function__(func, types, args, kwargs)
        return func(*args, **kwargs)


_OURS = {kernels.LazyTensor, Tensor}


def _takes(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call's first argument is a tensor that the kernels are to compute with."""
    x = args[0] if args else kwargs.get("input", kwargs.get("self"))
    block = x.block() if isinstance(x, kernels.LazyTensor) else None
    if block is not None and (block.gate is None if func in _MEANS else block.takes_function):
        # A tensor that waits knows the function, as the stated one.
        return False
    if not isinstance(x, Tensor) or not kernels.is_eager(x):
        return False
    return x.dtype == torch.float32 and x.numel() > 0


def _bound(
    names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> _Arguments | None:
    """Return arguments by name, the first called ``x``; None where there are others."""
    spelled = {
        _SPELLINGS.get(name, name): value
        for name, value in kwargs.items()
        if value is not None or name not in ("dtype", "out")
    }
    if len(args) > len(names) or not spelled.keys() <= set(names[len(args) :]):
        return None
    return dict(zip(names, args, strict=False)) | spelled


_SPELLINGS = {"input": "x", "self": "x", "axis": "dim"}
_POSITIONS = ({2, 3}, {-1, -2}, {2, -1}, {-2, 3})


def _mean(given: _Arguments) -> Tensor | None:
    x, dims = given["x"], given.get("dim")
    whole = isinstance(dims, (tuple, list)) and len(dims) == 2 and set(dims) in _POSITIONS
    if x.dim() != 4 or not whole:
        return None
    means = kernels.position_means(x)
    return means if given.get("keepdim") else means.flatten(1)


def _average(given: _Arguments) -> Tensor | None:
    size = given["output_size"]
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    return kernels.position_means(given["x"]) if given["x"].dim() == 4 and sizes == (1, 1) else None


def _activation(function: Callable[[Tensor], Tensor], in_place: bool = False) -> _Answer:
    def answer(given: _Arguments) -> Tensor | None:
        x = given["x"]
        if not (in_place or given.get("inplace")):
            return function(x)
        # A copy where a gradient is wanted: what is read for it may not be written to.
        return x.copy_(function(x.clone() if x.requires_grad else x))

    return answer


def _off_the_cpu(answer: _Answer) -> _Answer:
    """Leave to torch what it computes in the stated way on the CPU."""
    return lambda given: None if given["x"].device.type == "cpu" else answer(given)


def _entries(names: str, answer: _Answer, *functions: Any) -> dict[Any, Any]:
    return {function: (tuple(names.split()), answer) for function in functions}


_T: Any = Tensor
_MEANS: dict[Any, tuple[tuple[str, ...], _Answer]] = {
    **_entries("x dim keepdim", _mean, torch.mean, _T.mean),
    **_entries("x output_size", _average, F.adaptive_avg_pool2d),
}
_TABLE: dict[Any, tuple[tuple[str, ...], _Answer]] = {
    **_MEANS,
    **_entries("x inplace", _activation(kernels.swish), F.silu),
    **_entries("x", _activation(kernels.sigmoid), torch.sigmoid, _T.sigmoid, F.sigmoid),
    **_entries("x", _activation(kernels.sigmoid, True), torch.sigmoid_, _T.sigmoid_),
    **_entries("x inplace", _off_the_cpu(_activation(kernels.hardswish)), F.hardswish),
    **_entries("x inplace", _off_the_cpu(_activation(kernels.hardsigmoid)), F.hardsigmoid),
}


def apart(forward: Callable[[_Layer, Tensor], Tensor]) -> Callable[[_Layer, Tensor], Tensor]:
    """Let a layer that calls no function of the table be computed apart from the mode.

    Each function of torch takes a microsecond longer within it, and a layer calls forty.
    """

    @functools.wraps(forward)
    def call(self: _Layer, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not (depth := _depth()):
            return forward(self, input)
        mode = _at(depth - 1)
        if type(mode) is not _ExactFunctions:
            return forward(self, input)
        _pop()
        try:
            return forward(self, input)
        finally:
            _push(mode)

    return call
