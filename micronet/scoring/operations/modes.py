"""How the walk sees what a network does: the operators that torch dispatches while it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from micronet.quantization.layers import QuantizedLayer
from micronet.scoring.operations import composite_rules, operator_rules, tensor_axes
from micronet.scoring.operations.moves import ALLOCATIONS, MOVES, RESHAPES
from micronet.scoring.operations.operator_rules import PRODUCTS, Call, refuse
from micronet.scoring.operations.records import Permutation
from micronet.scoring.operations.trace import Trace
from micronet.utils.function_watch import FunctionWatch

RULES = operator_rules.RULES | composite_rules.COMPOSITES
ELEMENTWISE = operator_rules.ELEMENTWISE | composite_rules.ELEMENTWISE
# Rounding to codes is a conversion of format, which is free.
_ROUNDING = ("micronet::fake_quant", "micronet::quantize")


class Functions(FunctionWatch):
    """Tells the trace which function of torch is being called, for rules and messages."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def called(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Name the function while it runs; attention runs spelled out."""
        before, self.trace.function = self.trace.function, func
        if func is F.scaled_dot_product_attention and not kwargs.get("enable_gqa"):
            func = composite_rules.spelled_attention
        try:
            return func(*args, **kwargs)
        finally:
            self.trace.function = before


class Operators(TorchDispatchMode):
    """Records what is computed from the image; all else is known before there is one."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = _on_one_device(args, kwargs or {})
        result = func(*args, **kwargs)
        name, parameters = _signature(func)
        if name not in ALLOCATIONS:
            bound = dict(zip(parameters, args, strict=False)) | kwargs
            self._note(Call(name, bound, _tensors([result])))
        return result

    def _note(self, call: Call) -> None:
        trace, inputs = self.trace, _tensors(call.args.values())
        trace.operator = call.operator
        of_image = any(trace.is_of_image(t) for t in inputs)
        if of_image:
            for tensor in inputs:
                trace.used |= trace.sources(tensor)
            if not trace.only_products:
                self._record(call, inputs)
            elif call.operator in PRODUCTS and _has_weights(trace, inputs):
                PRODUCTS[call.operator](trace, call)
        elif call.operator in MOVES:
            _move(trace, call)
        trace.note_results(inputs, call.out, of_image)

    def _record(self, call: Call, inputs: list[Tensor]) -> None:
        """Record an operator that the image goes through."""
        trace = self.trace
        _note_reads(trace, call, inputs)
        rounds = _is_rounding(trace, call)
        if call.operator in MOVES:
            _move(trace, call, records=not rounds)
        elif rounds:
            _pass_axes(trace, call, inputs)
        elif call.operator in RULES:
            RULES[call.operator](trace, call)
            if call.operator in ELEMENTWISE:
                _pass_axes(trace, call, inputs)
        else:
            refuse(trace)


def _move(trace: Trace, call: Call, records: bool = False) -> None:
    """Follow a move of elements; one of the image is recorded where it reorders them."""
    moved = MOVES[call.operator](call.args, call.out, trace)
    if moved is None:
        if records:
            refuse(trace)
        return
    trace.set_axes(call.out, moved.axes)
    if records and moved.shuffled:
        among = moved.among if moved.among != moved.shuffled else 0
        ordinal = trace.next_permutation()
        numel = trace.each(moved.numel)
        trace.ops.append(Permutation(trace.where, moved.shuffled, numel, ordinal, among))


def _pass_axes(trace: Trace, call: Call, inputs: list[Tensor]) -> None:
    """Let an element-wise result have the axes of a tensor of the image that has its shape."""
    shape = call.out[0].shape
    alike = [trace.axes(t) for t in inputs if t.shape == shape and trace.is_of_image(t)]
    if alike:
        trace.set_axes(call.out[:1], [max(alike, key=tensor_axes.is_shuffled)])


def _note_reads(trace: Trace, call: Call, inputs: list[Tensor]) -> None:
    """Count how often the output of each layer is read.

    A linear layer over more than one dimension multiplies matrices and reshapes their product.
    """
    own = trace.function is F.linear and (call.operator in RESHAPES or call.operator == "add")
    for tensor in inputs:
        layer = trace.outputs.get(id(tensor))
        if layer is not None and own:
            trace.outputs[trace.keep(call.out[0])] = layer
        elif layer is not None:
            trace.reads[id(tensor)] += 1


def _is_rounding(trace: Trace, call: Call) -> bool:
    """Whether an operator rounds to codes, by its name or as a quantized layer does it."""
    if call.operator.startswith(_ROUNDING):
        return True
    is_torchs = "::" not in call.operator and call.operator not in PRODUCTS
    inside = any(isinstance(frame.module, QuantizedLayer) for frame in trace.frames)
    return is_torchs and inside


def _has_weights(trace: Trace, inputs: list[Tensor]) -> bool:
    return any(trace.sources(t) and not trace.is_of_image(t) for t in inputs)


@functools.cache
def _signature(operator: Any) -> tuple[str, tuple[str, ...]]:
    """Return an operator's name and its parameters' names.

    One that works in place has the other's name with an underscore behind it.
    """
    schema = operator._schema
    name = schema.name.removeprefix("aten::").removesuffix("_")
    return name, tuple(argument.name for argument in schema.arguments)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among an operator's arguments or results, lists opened."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _on_one_device(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put tensors that a network keeps beside its parameters to the others, on the meta device."""
    devices = {t.is_meta for t in _tensors((*args, *kwargs.values())) if t.dim()}
    if len(devices) < 2:
        return args, kwargs
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    return args, kwargs
