"""Rule set ``seed``: how the 2019 challenge entry first scored itself (July 2019).

Storage is in 16-bit words over every entry of the state dict; one operation is one
multiply-accumulate, one normalised, activated or pooled element, in 16-bit units. The rules were
written for EfficientNet and are kept with their quirks: depthwise work is divided by the groups a
second time, a sigmoid gate is billed on the map that it scales, every MBConv block pays one more
activation after its last BatchNorm whether it has a skip or not, and dropout counts as one.

Where that script had no rule: an element-wise addition outside an MBConv block costs one operation
an element, as the extra activation does inside one; any other product, pooling or activation
follows the same formulas; a BatchNorm's entries are stored, and element-wise work is done, in the
bits of the activations, which the script took to be 4. The state dict is the float network's, as
the script's was: the ranges and learned steps that our quantisers keep beside the weights, and
pruning masks, cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from torch import nn

from micronet.opcount import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Op,
    Pool,
    Residual,
    Scale,
)
from micronet.quantizers import InputQuantizer
from micronet.rules import Cost, Precision

NAME = "seed"
WORD_BITS = 16
# MobileNetV2-1.4, the challenge's yardstick for ImageNet: parameters and operations.
BASELINE_STORAGE = Fraction(6_900_000)
BASELINE_OPERATIONS = Fraction(1_170_000_000)
# The entry was trained and scored at this size, not at EfficientNet-B1's own 240.
IMAGE_SIZE = 224
# What the script took for granted about a network of which it saw float weights only.
ASSUMED_BITS = Fraction(4)
ASSUMED_CLASSIFIER_BITS = Fraction(12, 5)

_GATES = {"sigmoid", "hardsigmoid"}
_BLOCK_END = "._bn2"


def assumed_precision(layers: Sequence[str], stem: str, classifier: str) -> Precision:
    """Return the precision that the rule set takes for granted where none is known."""
    weights = {name: ASSUMED_BITS for name in layers}
    weights[stem] = Fraction(WORD_BITS)
    weights[classifier] = ASSUMED_CLASSIFIER_BITS
    return Precision(weights, ASSUMED_BITS)


def storage(model: nn.Module, nonzeros: Mapping[str, int], precision: Precision) -> Iterator[Cost]:
    """Yield the 16-bit words of every entry of the state dict (rule S3).

    Args:
        model: float or quantised; tensors may be on the meta device.
        nonzeros: non-zero weights of every convolution and linear layer.
        precision: bits of the weights.
    """
    owners = dict(model.named_modules())
    for entry, tensor in model.state_dict().items():
        name, _, field = entry.rpartition(".")
        if isinstance(owners[name], InputQuantizer) or field == "weight_step":
            continue
        dense = Fraction(tensor.numel())
        if field == "bias":
            yield Cost(entry, "bias", dense, dense)
        elif name in nonzeros:
            kind = "linear" if isinstance(owners[name], nn.Linear) else "convolution"
            used = nonzeros[name] * precision.weights[name] / WORD_BITS
            yield Cost(entry, kind, used, dense)
        else:
            yield Cost(entry, "normalisation", dense * precision.elementwise / WORD_BITS, dense)


def operations(
    ops: Sequence[Op], nonzeros: Mapping[str, int], precision: Precision
) -> Iterator[Cost]:
    """Yield the cost of every operation in execution order (rule F1).

    Args:
        ops: the walk of the network.
        nonzeros: non-zero weights of every convolution and linear layer.
        precision: bits of weights and of element-wise work.
    """
    full = Fraction(WORD_BITS)
    bits = full
    for op, following in zip(ops, [*ops[1:], None], strict=True):
        if isinstance(op, Conv):
            # Normalisation and activation behind a float stem are float too.
            is_float = precision.weights[op.name] == full
            bits = full if is_float else precision.elementwise
            yield _conv(op, nonzeros[op.name], precision.weights[op.name])
        elif isinstance(op, Linear):
            yield _linear(op, nonzeros[op.name], precision.weights[op.name])
        elif isinstance(op, Activation) and op.function in _GATES and isinstance(following, Scale):
            continue  # billed with the product that follows
        elif not _inside_block(op):
            yield _elementwise(op, bits)
            if isinstance(op, BatchNorm) and op.name.endswith(_BLOCK_END):
                yield _cost(op.name + " (block output)", "activation", op.numel, bits)


def _inside_block(op: Op) -> bool:
    """Whether an addition is that of an MBConv block, which its extra activation stands for."""
    return isinstance(op, Residual) and op.name.startswith("_blocks.")


def _conv(op: Conv, nonzero: int, bits: Fraction) -> Cost:
    bias = op.positions * op.out_channels if op.bias else 0
    # The weights already have in_channels / groups columns: the script's well-known mistake.
    places = Fraction(op.positions, op.groups)
    used = nonzero * places * bits / WORD_BITS + bias
    return Cost(op.name, "convolution", used, op.weights * places + bias)


def _linear(op: Linear, nonzero: int, bits: Fraction) -> Cost:
    bias = op.positions * op.out_features if op.bias else 0
    used = nonzero * op.positions * bits / WORD_BITS + bias
    return Cost(op.name, "linear", used, Fraction(op.weights * op.positions + bias))


def _elementwise(op: Op, bits: Fraction) -> Cost:
    if isinstance(op, Pool):
        return _cost(op.name, "pooling", op.input_numel, bits)
    if isinstance(op, BatchNorm):
        return _cost(op.name, "normalisation", op.numel, bits)
    if isinstance(op, (Activation, Scale, Residual, Dropout)):
        return _cost(op.name, "activation", op.numel, bits)
    raise TypeError(f"{type(op).__name__} is no element-wise operation")


def _cost(name: str, kind: str, numel: int, bits: Fraction) -> Cost:
    return Cost(name, kind, numel * bits / WORD_BITS, Fraction(numel))


def published_operations(costs: Sequence[Cost]) -> int:
    """Return the operations as the 2019 script printed them: summed in float32.

    Each MBConv block summed its own operations in execution order and returned the sum with its
    output; the network added it to a running sum of its own, which began with the stem. Both sums
    were float32, which resolves steps of 8 near 8e7, so the order shows: for EfficientNet-B1's
    recipe one running sum over all operations ends 32 higher, and the exact sum 2.8 higher.
    Networks without such blocks have one running sum.
    """
    total = subtotal = np.float32(0)
    block = ""
    for cost in costs:
        here = ".".join(cost.name.split(".")[:2]) if cost.name.startswith("_blocks.") else ""
        if here != block:
            total, subtotal, block = total + subtotal, np.float32(0), here
        if here:
            subtotal += np.float32(cost.used)
        else:
            total += np.float32(cost.used)
    return int(total + subtotal)
