"""One walk of a network: its operations as typed records, in the order in which they run.

The records are facts (shapes, groups, sizes); what they cost is a rule set's business. The walk
runs the network once on the meta device, so it needs neither weights nor memory for activations,
and records the operators that torch dispatches: there one operation has one name, however the
network spells it. It runs a batch of images and divides by them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from micronet.scoring.operations.detectors import Forward, forward_of
from micronet.scoring.operations.modes import Functions, Operators
from micronet.scoring.operations.records import (
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Op,
)
from micronet.scoring.operations.trace import IMAGES, Frame, Trace, UncountedError


def walk(
    model: nn.Module, image_size: int, channels: int = 3, forward: Forward | None = None
) -> list[Op]:
    """Return the operations of one forward pass of one image, in execution order.

    Args:
        model: on any device; it is copied to the meta device, and not changed.
        image_size: side of the square input in pixels.
        channels: of the input.
        forward: called with the copy and a batch of images, runs what is counted; by default all of
            the network, or of torchvision's detectors what computes scores and boxes.

    Raises:
        ValueError: the network has an operation that no rule counts or a parameter that none
            uses, mixes the images of a batch, or does not take such images.
    """
    trace = _run(model, image_size, channels, forward)
    for parameter, _ in trace.model.named_parameters():
        if parameter not in trace.used:
            owner = parameter.rpartition(".")[0]
            raise ValueError(f"module {owner!r} has {parameter!r}, which no operation uses")
    return _finished(trace)


def multiply_adds(model: nn.Module, image_size: int, channels: int = 3) -> dict[str, int]:
    """Return the multiply-adds of one image with the weights of each layer, as ``walk`` names it.

    Operations without weights pass, whether or not there is a rule for them. The arguments are
    those of ``walk``.

    Raises:
        ValueError: the network mixes the images of a batch, or does not take such images.
    """
    found: Counter[str] = Counter()
    for op in _run(model, image_size, channels, None, only_products=True).ops:
        if isinstance(op, (Conv, Linear)):
            found[op.name] += op.weights * op.positions
    return dict(found)


def _run(
    model: nn.Module,
    image_size: int,
    channels: int,
    forward: Forward | None,
    only_products: bool = False,
) -> Trace:
    """Run a network once and return what it did."""
    model = _on_meta(model)
    trace = Trace(model, only_products)
    images = torch.empty(IMAGES, channels, image_size, image_size, device="meta")
    trace.add_image(images)
    for name, module in trace.modules.items():
        _watch(trace, name, module)
    shape = f"{channels}x{image_size}x{image_size}"
    with _errors_of(shape), torch.no_grad(), Functions(trace), Operators(trace):
        (forward or forward_of(model))(model, images)
    return trace


def _on_meta(model: nn.Module) -> nn.Module:
    """Return a copy for evaluation whose parameters and buffers have no values.

    What two modules share they share there, too.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    # What torch's pruning keeps beside a parameter cannot be copied with its history.
    for value in (value for module in model.modules() for value in vars(module).values()):
        if isinstance(value, Tensor) and value.grad_fn is not None:
            memo[id(value)] = value.detach()
    return copy.deepcopy(model, memo).eval()


@contextmanager
def _errors_of(shape: str) -> Iterator[None]:
    """Make a sentence of whatever a network raises."""
    try:
        yield
    except UncountedError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if not reason or not isinstance(error, (RuntimeError, AssertionError, ValueError)):
            reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise ValueError(f"it does not take an image of {shape}: {reason}") from None


def _watch(trace: Trace, name: str, module: nn.Module) -> None:
    """Make ``trace`` follow the calls of one module."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"module {name!r} is compiled by TorchScript: give it as it was before")

    def before(module: nn.Module, inputs: Any) -> None:
        trace.frames.append(Frame(name, module))

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        # The identity in evaluation; one rule set bills it.
        if isinstance(module, _DropoutNd) and isinstance(output, Tensor):
            trace.ops.append(Dropout(name, trace.each(output.numel())))
        trace.frames.pop()

    # Around whatever hooks the network has itself.
    module.register_forward_pre_hook(before, prepend=True)
    module.register_forward_hook(after, always_call=True)


def _finished(trace: Trace) -> list[Op]:
    """Return the operations, each normalization with the layer that it folds into."""
    runs = Counter(op.name for op in trace.ops if isinstance(op, (Conv, Linear)))
    for place, output in trace.normalized.items():
        layer, op = trace.outputs[output], trace.ops[place]
        if trace.reads[output] == 1 and runs[layer] == 1 and isinstance(op, BatchNorm):
            trace.ops[place] = dataclasses.replace(op, folds_into=layer)
    return [op for op in trace.ops if op is not None]
