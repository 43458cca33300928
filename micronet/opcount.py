"""One walk of a network: its operations as typed records, in the order in which they run.

The records are facts (shapes, groups, sizes); what they cost is a rule set's business. The walk
runs the network once on the meta device, so it needs neither weights nor memory for activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from efficientnet_pytorch.utils import MemoryEfficientSwish, Swish
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Conv:
    """A convolution; ``positions`` is output height times width."""

    name: str
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    positions: int
    bias: bool

    @property
    def weights(self) -> int:
        """Number of weights."""
        kernel = 1
        for side in self.kernel:
            kernel *= side
        return self.out_channels * (self.in_channels // self.groups) * kernel


@dataclass(frozen=True)
class Linear:
    """A fully connected layer, applied at ``positions`` places."""

    name: str
    in_features: int
    out_features: int
    positions: int
    bias: bool

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class BatchNorm:
    """A batch normalisation of ``numel`` elements."""

    name: str
    numel: int


@dataclass(frozen=True)
class Activation:
    """An activation function, by its lower-case name, over ``numel`` elements."""

    name: str
    function: str
    numel: int


@dataclass(frozen=True)
class Pool:
    """A pooling from ``input_numel`` to ``output_numel`` elements."""

    name: str
    input_numel: int
    output_numel: int


@dataclass(frozen=True)
class Scale:
    """A product, broadcast as squeeze-excite ends in it, over ``numel`` elements."""

    name: str
    numel: int


@dataclass(frozen=True)
class Residual:
    """An element-wise addition, as residual blocks end in it, over ``numel`` elements."""

    name: str
    numel: int


@dataclass(frozen=True)
class Dropout:
    """A dropout layer, which is the identity in evaluation."""

    name: str
    numel: int


Op = Conv | Linear | BatchNorm | Activation | Pool | Scale | Residual | Dropout

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
_FREE = (nn.Identity, nn.Flatten, nn.ZeroPad2d, torchvision.ops.StochasticDepth)
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
        name = getattr(func, "__name__", "")
        if not self.inside and isinstance(first, Tensor) and name not in _FREE_FUNCTIONS:
            self._record(name, args, first)
        return result

    def _record(self, function: str, args: tuple[Any, ...], result: Tensor) -> None:
        where = self.stack[-1] if self.stack else ""
        if function in _FUNCTIONS:
            self.ops.append(Activation(where, _FUNCTIONS[function], result.numel()))
        elif function in _POOL_FUNCTIONS:
            self.ops.append(Pool(where, args[0].numel(), result.numel()))
        elif function in _ADDITIONS:
            self.ops.append(Residual(where, result.numel()))
        elif function in _PRODUCTS:
            self.ops.append(Scale(where, result.numel()))
        else:
            raise ValueError(f"module {where!r} calls {function}, which has no rule to count it by")


def _is_recorded(module: nn.Module) -> bool:
    """Whether a module is one record, whatever is inside it."""
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    return isinstance(module, known) or not any(module.children())


def _record_module(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> Op | None:
    """Return the record of one layer, None for one that costs nothing.

    Raises:
        ValueError: there is no rule for the module.
    """
    if isinstance(module, nn.Conv2d):
        return _conv(name, module, output)
    if isinstance(module, nn.Linear):
        positions = output.numel() // (output.shape[0] * module.out_features)
        bias = module.bias is not None
        return Linear(name, module.in_features, module.out_features, positions, bias)
    if isinstance(module, nn.BatchNorm2d):
        return BatchNorm(name, output.numel())
    if type(module) in _ACTIVATIONS:
        return Activation(name, _ACTIVATIONS[type(module)], output.numel())
    if isinstance(module, _POOLS):
        return Pool(name, inputs.numel(), output.numel())
    if isinstance(module, nn.Dropout):
        return Dropout(name, output.numel())
    if isinstance(module, _FREE):
        return None
    raise ValueError(f"module {name!r} ({type(module).__name__}) has no rule to count it by")


def _conv(name: str, module: nn.Conv2d, output: Tensor) -> Conv:
    return Conv(
        name,
        module.in_channels,
        module.out_channels,
        module.groups,
        tuple(module.kernel_size),
        output.shape[-2] * output.shape[-1],
        module.bias is not None,
    )


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
    _check_counted(model, recorder.ops)
    return recorder.ops


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
        recorder.stack.append(name)
        recorder.inside += recorded

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        recorder.stack.pop()
        recorder.inside -= recorded
        if recorded and not recorder.inside:
            op = _record_module(name, module, inputs[0], output)
            recorder.ops.extend([op] if op else [])

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
