"""What a dispatched operator that computes is recorded as.

Whatever is in no table here, and in none of ``moves``, is an error: a product or an
activation that bypasses the rules must not count as nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from micronet.scoring.operations import tensor_axes
from micronet.scoring.operations.interpolation import INTERPOLATIONS, taps
from micronet.scoring.operations.pooling import POOLS, REDUCTIONS, pool
from micronet.scoring.operations.records import (
    Activation,
    BatchNorm,
    Conv,
    Interpolation,
    LayerNorm,
    Linear,
    MatrixProduct,
    Residual,
    Scale,
    Softmax,
)
from micronet.scoring.operations.trace import IMAGES, Trace, UncountedError


@dataclass(frozen=True)
class Call:
    """One call of an operator: its name, its arguments by name, and what it returned."""

    operator: str
    args: dict[str, Any]
    out: list[Tensor]


Rule = Callable[[Trace, Call], None]

ACTIVATIONS = {
    "relu": "relu",
    "silu": "swish",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "gelu": "gelu",
    "mish": "mish",
    "leaky_relu": "leaky_relu",
    "_prelu_kernel": "prelu",
}
# Functions of one step; two of them compare, as a maximum does.
_STEPS = "tanh exp log log1p erf sqrt rsqrt reciprocal abs neg maximum minimum".split()


def refuse(trace: Trace) -> None:
    """Raise UncountedError: there is no rule for what is being called."""
    raise UncountedError(f"{trace.task} has no rule to count it by")


def _activation(trace: Trace, call: Call) -> None:
    function = ACTIVATIONS[call.operator]
    trace.ops.append(Activation(trace.where, function, trace.each(call.out[0].numel())))


def _step(trace: Trace, call: Call) -> None:
    trace.ops.append(Activation(trace.where, call.operator, trace.each(call.out[0].numel())))


def _softplus(trace: Trace, call: Call) -> None:
    if call.args.get("beta", 1) != 1:
        refuse(trace)
    _step(trace, call)


def _elu(trace: Trace, call: Call) -> None:
    """ELU, or with factors of its own SELU and CELU."""
    plain = all(call.args.get(name, 1) == 1 for name in ("alpha", "scale", "input_scale"))
    numel = trace.each(call.out[0].numel())
    trace.ops.append(Activation(trace.where, "elu" if plain else "selu", numel))


def _clamp(trace: Trace, call: Call) -> None:
    """A comparison with each bound: one is a ReLU's, two are a ReLU6's."""
    bounds = [call.args.get(name) for name in ("min", "max", "min_val", "max_val")]
    given = [bound for bound in bounds if bound is not None]
    if any(isinstance(bound, Tensor) and trace.is_of_image(bound) for bound in given):
        refuse(trace)
    two = len(given) == 2 or call.operator == "hardtanh"
    function = "relu6" if two else "relu"
    trace.ops.append(Activation(trace.where, function, trace.each(call.out[0].numel())))


def _sigmoid(trace: Trace, call: Call) -> None:
    source, result = call.args["self"], call.out[0]
    trace.ops.append(Activation(trace.where, "sigmoid", trace.each(result.numel())))
    if source is not result:
        place = len(trace.ops) - 1
        trace.sigmoids[trace.keep(result)] = (trace.keep(source), source._version, place)


def _multiply(trace: Trace, call: Call) -> None:
    """A product; that of a tensor and its own sigmoid is a swish."""
    operands = call.args["self"], call.args["other"]
    numel = trace.each(call.out[0].numel())
    for gate, gated in (operands, operands[::-1]):
        source, version, place = trace.sigmoids.get(id(gate), (0, 0, 0))
        # The product itself is a new version where it is in place.
        same = call.out[0] is gated or (isinstance(gated, Tensor) and gated._version == version)
        if source == id(gated) and same and trace.ops[place] is not None:
            trace.ops[place] = None
            trace.ops.append(Activation(trace.where, "swish", numel))
            return
    trace.ops.append(Scale(trace.where, numel))


def _divide(trace: Trace, call: Call) -> None:
    if call.args.get("rounding_mode") is not None:
        refuse(trace)
    trace.ops.append(Scale(trace.where, trace.each(call.out[0].numel())))


def _add(trace: Trace, call: Call) -> None:
    """An addition, or the bias of a linear layer that torch adds apart."""
    if call.args.get("alpha", 1) != 1:
        refuse(trace)
    last = trace.ops[-1] if trace.ops else None
    if trace.function is F.linear and isinstance(last, Linear):
        trace.ops[-1] = dataclasses.replace(last, bias=True)
    else:
        trace.ops.append(Residual(trace.where, trace.each(call.out[0].numel())))


def _pool(trace: Trace, call: Call) -> None:
    trace.ops.append(pool(trace.where, call.operator, call.args, call.out[0], trace.each))
    source: Tensor = call.args["self"]
    axes, shape = trace.axes(source), call.out[0].shape
    if call.operator in REDUCTIONS:
        dims = [d % source.dim() for d in call.args.get("dim") or range(source.dim())]
        found = tensor_axes.reduce(axes, dims, call.args.get("keepdim", False))
    else:
        found = tensor_axes.keep(axes, range(len(shape) - 2), shape)
    trace.set_axes(call.out[:1], [found])


def _interpolate(trace: Trace, call: Call) -> None:
    number = taps(call.operator, call.args)
    if number is None:
        refuse(trace)
    else:
        numel = trace.each(call.out[0].numel())
        trace.ops.append(Interpolation(trace.where, numel, number))


def _softmax(trace: Trace, call: Call) -> None:
    result = call.out[0]
    groups = result.numel() // result.shape[call.args["dim"]]
    is_log = call.operator == "_log_softmax"
    softmax = Softmax(trace.where, trace.each(result.numel()), trace.each(groups), is_log)
    trace.ops.append(softmax)


def _layer_norm(trace: Trace, call: Call) -> None:
    size = 1
    for side in call.args["normalized_shape"]:
        size *= side
    numel, affine = call.out[0].numel(), call.args.get("weight") is not None
    groups = trace.each(numel // size)
    trace.ops.append(LayerNorm(trace.where, trace.each(numel), groups, affine))


def _batch_norm(trace: Trace, call: Call) -> None:
    args, result = call.args, call.out[0]
    if args.get("training"):
        refuse(trace)
    name, own = trace.normalization(args["weight"], args["bias"], args["running_mean"])
    channels = args["input"].shape[1]
    trace.ops.append(BatchNorm(name, trace.each(result.numel()), channels, None, own))
    source = id(args["input"])
    if source in trace.outputs:
        trace.normalized[len(trace.ops) - 1] = source


def _convolution(trace: Trace, call: Call) -> None:
    weight, groups, transposed = (call.args[k] for k in ("weight", "groups", "transposed"))
    # The additions of a transposed convolution have no rule; its products are known.
    if trace.is_of_image(weight) or (transposed and not trace.only_products):
        refuse(trace)
    name, layer = trace.layer_of(weight, weight.numel())
    outputs, columns, *kernel = weight.shape
    spread: Tensor = call.args["input"] if transposed else call.out[0]
    positions = trace.each(spread.numel() // outputs)
    bias, by_layer = call.args.get("bias") is not None, layer is not None
    conv = Conv(name, columns * groups, outputs, groups, tuple(kernel), positions, bias, by_layer)
    _layer(trace, call, conv)


def _layer(trace: Trace, call: Call, op: Conv | Linear) -> None:
    trace.ops.append(op)
    trace.outputs[trace.keep(call.out[0])] = op.name


def _product(trace: Trace, call: Call) -> None:
    """A product of two matrices, of which one holds weights."""
    first = call.args.get("mat1", call.args["self"])
    second = call.args["mat2"]
    of_image = [trace.is_of_image(first), trace.is_of_image(second)]
    bias = call.args["self"] if call.operator == "addmm" else None
    plain = call.args.get("alpha", 1) == 1 == call.args.get("beta", 1)
    if all(of_image):
        _product_of_image(trace, call)
        return
    if not plain or (bias is not None and trace.is_of_image(bias)):
        refuse(trace)
    weight = second if of_image[0] else first
    # The same matrix may stand in every one of a batch.
    if weight.dim() == 3 and weight.shape[0] > 1 and weight.stride(0):
        refuse(trace)
    inputs, outputs = weight.shape[-2:] if of_image[0] else weight.shape[:-3:-1]
    name, layer = trace.layer_of(weight, inputs * outputs)
    positions = trace.each(call.out[0].numel() // outputs)
    rank = weight.dim()
    image, summed = (first, rank - 1) if of_image[0] else (second, rank - 2)
    kept = tensor_axes.keep(trace.axes(image), {*range(rank)} - {summed}, call.out[0].shape)
    trace.set_axes(call.out, [kept])
    has_bias = bias is not None or getattr(layer, "bias", None) is not None
    _layer(trace, call, Linear(name, inputs, outputs, positions, has_bias, layer is not None))


def _product_of_image(trace: Trace, call: Call) -> None:
    """A product of two matrices that each image has of its own."""
    first: Tensor = call.args["self"]
    if call.operator != "bmm" or first.shape[0] % IMAGES:
        refuse(trace)
    outputs = trace.each(call.out[0].numel())
    trace.ops.append(MatrixProduct(trace.where, first.shape[-1], outputs))


PRODUCTS: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(["mm", "addmm", "bmm"], _product),
}
RULES: dict[str, Rule] = {
    **PRODUCTS,
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(_STEPS, _step),
    "softplus": _softplus,
    "elu": _elu,
    **dict.fromkeys(["clamp", "clamp_min", "clamp_max", "hardtanh"], _clamp),
    "sigmoid": _sigmoid,
    "mul": _multiply,
    "div": _divide,
    **dict.fromkeys(["add", "sub", "rsub"], _add),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(INTERPOLATIONS, _interpolate),
    **dict.fromkeys(["_softmax", "_log_softmax"], _softmax),
    "native_layer_norm": _layer_norm,
    "native_batch_norm": _batch_norm,
}
# Their results' elements stand where those of their arguments do.
ELEMENTWISE = (
    frozenset(
        ["relu", "sigmoid", "mul", "div", "add", "sub", "rsub", "clamp", "clamp_min", "clamp_max"]
    )
    | frozenset(
        [
            "hardtanh",
            "native_layer_norm",
            "native_batch_norm",
            "_softmax",
            "_log_softmax",
            "softplus",
        ]
    )
    | frozenset(["elu", *ACTIVATIONS, *_STEPS])
)
