"""One walk of a network: its operations as typed records, in the order in which they run.

The records are facts (shapes, groups, sizes); what they cost is a rule set's business. The walk
runs the network once on the meta device, so it needs neither weights nor memory for activations.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from efficientnet_pytorch.utils import MemoryEfficientSwish, Swish
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from micronet.opcount_pool import pool_function, pool_module
from micronet.opcount_records import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    LayerNorm,
    Linear,
    Op,
    Permutation,
    Pool,
    Residual,
    Scale,
)

__all__ = [
    "Activation",
    "BatchNorm",
    "Conv",
    "Dropout",
    "LayerNorm",
    "Linear",
    "Op",
    "Permutation",
    "Pool",
    "Residual",
    "Scale",
    "walk",
]

_ACTIVATIONS: dict[type, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "swish",
    MemoryEfficientSwish: "swish",
    Swish: "swish",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
}
_FREE = (
    nn.Identity,
    nn.Flatten,
    nn.ZeroPad2d,
    torchvision.ops.StochasticDepth,
    torchvision.ops.Permute,
)
_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)

_FUNCTIONS: dict[str, str] = {
    "relu": "relu",
    "relu_": "relu",
    "relu6": "relu6",
    "silu": "swish",
    "sigmoid": "sigmoid",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "gelu": "gelu",
}
_POOL_FUNCTIONS = {"adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "mean"}
_ADDITIONS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_PRODUCTS = {"mul", "mul_", "__mul__", "__imul__", "__rmul__"}
# They move elements, allocate, or are the identity in evaluation. Whatever is in no list is an
# error: a convolution or a softmax that bypasses its module must not count as nothing.
_FREE_FUNCTIONS = set(
    "cat stack chunk split flatten reshape view permute transpose expand squeeze".split()
) | set("unsqueeze contiguous clone detach to pad __getitem__ __get__ dropout empty".split())
# Quantised networks begin with it. The rules bill operands by their bits, not their rounding.
_FREE_FUNCTIONS |= {"new_empty", "fake_quant_weights.default", "fake_quant_per_channel.default"}


class _Recorder(TorchFunctionMode):
    """Collects operations; functions called inside a recorded module belong to that module."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.stack: list[str] = []
        self.inside = 0
        # Outputs of convolutions and linear layers by identity, kept so that no other tensor
        # takes theirs, how often each is read, and which of them a normalisation reads.
        self.outputs: dict[int, tuple[Tensor, str]] = {}
        self.reads: Counter[int] = Counter()
        self.normalised: dict[int, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        several = isinstance(result, (tuple, list)) and not isinstance(result, torch.Size)
        first = result[0] if several and result else result
        if not self.inside and isinstance(first, Tensor):
            self.note_reads(args)
            self._record(getattr(func, "__name__", ""), args, kwargs or {}, first)
        return result

    def note_reads(self, inputs: Any) -> None:
        """Count the reading of each tensor in ``inputs`` that is an output of a layer."""
        for value in inputs:
            for tensor in value if isinstance(value, (tuple, list)) else [value]:
                if id(tensor) in self.outputs:
                    self.reads[id(tensor)] += 1

    def _record(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        where = self.stack[-1] if self.stack else ""
        if function in _FUNCTIONS:
            self.ops.append(Activation(where, _FUNCTIONS[function], result.numel()))
        elif function in _POOL_FUNCTIONS:
            self.ops.append(pool_function(where, function, args, kwargs, result))
        elif function in _ADDITIONS:
            self.ops.append(Residual(where, result.numel()))
        elif function in _PRODUCTS:
            self.ops.append(Scale(where, result.numel()))
        elif _is_channel_shuffle(function, args):
            self.ops.append(Permutation(where, _channels(function, result), result.numel()))
        elif function not in _FREE_FUNCTIONS:
            raise ValueError(f"module {where!r} calls {function}, which has no rule to count it by")

    def finished(self) -> list[Op]:
        """Return the operations, each normalisation with the layer that it folds into."""
        runs = Counter(op.name for op in self.ops if isinstance(op, (Conv, Linear)))
        for index, output in self.normalised.items():
            _, layer = self.outputs[output]
            op = self.ops[index]
            if self.reads[output] == 1 and runs[layer] == 1 and isinstance(op, BatchNorm):
                self.ops[index] = dataclasses.replace(op, folds_into=layer)
        return self.ops


def _is_channel_shuffle(function: str, args: tuple[Any, ...]) -> bool:
    """Whether a function reorders channels, as ShuffleNet does by transposing groups of them."""
    if function == "transpose":
        return args[0].dim() == 5 and sorted(args[1:]) == [1, 2]
    return function in ("channel_shuffle", "native_channel_shuffle")


def _channels(function: str, result: Tensor) -> int:
    return result.shape[1] * (result.shape[2] if function == "transpose" else 1)


def _is_recorded(module: nn.Module) -> bool:
    """Whether a module is one record, whatever is inside it."""
    known = (nn.Conv2d, nn.Linear, _BatchNorm, nn.LayerNorm)
    return isinstance(module, known) or not any(module.children())


def _record_module(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> Op | None:
    """Return the record of one layer, None for one that costs nothing.

    Raises:
        ValueError: there is no rule for the module.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return _layer(name, module, output)
    if isinstance(module, (_BatchNorm, nn.LayerNorm)):
        return _normalisation(name, module, output)
    if type(module) in _ACTIVATIONS:
        return Activation(name, _ACTIVATIONS[type(module)], output.numel())
    if isinstance(module, _POOLS):
        return pool_module(name, module, inputs, output)
    if isinstance(module, nn.Dropout):
        return Dropout(name, output.numel())
    if isinstance(module, nn.ChannelShuffle):
        return Permutation(name, output.shape[1], output.numel())
    if isinstance(module, _FREE):
        return None
    raise ValueError(f"module {name!r} ({type(module).__name__}) has no rule to count it by")


def _layer(name: str, module: nn.Conv2d | nn.Linear, output: Tensor) -> Conv | Linear:
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        positions = output.numel() // (output.shape[0] * module.out_features)
        return Linear(name, module.in_features, module.out_features, positions, bias)
    return Conv(
        name,
        module.in_channels,
        module.out_channels,
        module.groups,
        tuple(module.kernel_size),
        output.shape[-2] * output.shape[-1],
        bias,
    )


def _normalisation(name: str, module: nn.Module, output: Tensor) -> BatchNorm | LayerNorm:
    if isinstance(module, _BatchNorm):
        return BatchNorm(name, output.numel(), module.num_features)
    assert isinstance(module, nn.LayerNorm)
    size = 1
    for side in module.normalized_shape:
        size *= side
    return LayerNorm(name, output.numel(), output.numel() // size, module.elementwise_affine)


def walk(model: nn.Module, image_size: int, channels: int = 3) -> list[Op]:
    """Return the operations of one forward pass of one image, in execution order.

    Args:
        model: on any device; it is copied to the meta device, and not changed.
        image_size: side of the square input in pixels.
        channels: of the input.

    Raises:
        ValueError: the network has a module, a parameter or a function that no rule counts, or
            does not take such an image.
    """
    model = copy.deepcopy(model).to("meta").eval()
    recorder = _Recorder()
    for name, module in model.named_modules():
        _watch(recorder, name, module)
    try:
        with recorder, torch.no_grad():
            model(torch.empty(1, channels, image_size, image_size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        shape = f"{channels}x{image_size}x{image_size}"
        raise ValueError(f"it does not take an image of {shape}: {reason}") from None
    ops = recorder.finished()
    _check_counted(model, ops)
    return ops


def _check_counted(model: nn.Module, ops: list[Op]) -> None:
    """Hold every parameter to a record: its module's, or that of the layer it is inside."""
    counted = {op.name for op in ops}
    for name in list(counted):
        module = model.get_submodule(name)
        if _is_recorded(module):
            counted.update(inner for inner, _ in module.named_modules(prefix=name))
    for parameter, _ in model.named_parameters():
        owner = parameter.rpartition(".")[0]
        if owner not in counted:
            raise ValueError(f"module {owner!r} has {parameter!r}, which no operation uses")


def _watch(recorder: _Recorder, name: str, module: nn.Module) -> None:
    """Make ``recorder`` follow the calls of one module."""
    recorded = _is_recorded(module)

    def before(module: nn.Module, inputs: Any) -> None:
        if recorded and not recorder.inside:
            recorder.note_reads(inputs)
        recorder.stack.append(name)
        recorder.inside += recorded

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        recorder.stack.pop()
        recorder.inside -= recorded
        if recorded and not recorder.inside:
            op = _record_module(name, module, inputs[0], output)
            recorder.ops.extend([op] if op else [])
            if isinstance(op, (Conv, Linear)):
                recorder.outputs[id(output)] = (output, name)
            elif isinstance(op, BatchNorm) and id(inputs[0]) in recorder.outputs:
                recorder.normalised[len(recorder.ops) - 1] = id(inputs[0])

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
