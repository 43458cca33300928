"""What is scored: a network's structure, its non-zero weights, and the bits of its operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType

import torch
from torch import nn

import micronet_kernels as kernels
from micronet import models, prune, quantize, runs
from micronet.config import load_schedule
from micronet.errors import UserError, nearest
from micronet.quantize import LayerBits, QuantizedConv2d, QuantizedLinear
from micronet.rules import Precision

_FLOAT = LayerBits(None, None)


@dataclass(frozen=True)
class Subject:
    """A network to score: its structure, its non-zero weights by layer, and its precision."""

    name: str
    arch: str
    model: nn.Module
    image_size: int
    channels: int
    nonzeros: Mapping[str, int]
    precision: Precision
    precision_source: str


def describe(
    model: nn.Module,
    image_size: int,
    channels: int = 3,
    *,
    bits: Mapping[str, LayerBits] | None,
    sparsities: Mapping[str, float] | None,
    rules: ModuleType,
    name: str = "network",
    arch: str | None = None,
) -> Subject:
    """Describe a network as it is, or with planned zeros.

    Args:
        model: any network that ``opcount.walk`` takes; only its structure is used with a plan.
        image_size: side of the square input in pixels.
        channels: of the input.
        bits: precision by layer, layers without an entry being float; None bills what the rule
            set takes for granted.
        sparsities: planned share of zeros by layer, others dense; None counts the actual zeros,
            and holds ``bits`` to the layers' actual precision.
        rules: the rule set.
        name: where the network comes from.
        arch: what it is; its class's name by default.

    Raises:
        UserError: a named layer is none of the model's, or its precision is not the one claimed.
    """
    layers = models.layers(model)
    for claimed in [*(bits or {}), *(sparsities or {})]:
        if claimed not in layers:
            raise UserError(f"{name}: {claimed!r} is no layer{nearest(claimed, layers)}")
    if sparsities is None:
        if bits is not None:
            _check_precision(layers, bits, name)
        nonzeros = {n: int(kernels.count_nonzero(m.weight.detach())) for n, m in layers.items()}
    else:
        sizes = {n: layer.weight.numel() for n, layer in layers.items()}
        nonzeros = {
            n: size - prune.pruned_weights(size, sparsities.get(n, 0.0))
            for n, size in sizes.items()
        }
    if bits is None:
        stem, classifier = models.stem_name(model), models.classifier_name(model)
        precision = rules.assumed_precision(list(layers), stem, classifier)
        source = "taken for granted by the rule set"
    else:
        precision = precision_of({n: bits.get(n, _FLOAT) for n in layers}, rules.WORD_BITS)
        source = "as planned" if sparsities is not None else "as they are"
    arch = arch or type(model).__name__
    return Subject(name, arch, model, image_size, channels, nonzeros, precision, source)


def _check_precision(
    layers: Mapping[str, nn.Module], bits: Mapping[str, LayerBits], name: str
) -> None:
    """Hold what is claimed of a network to what its layers do."""
    for layer, module in layers.items():
        actual = module.bits if isinstance(module, (QuantizedConv2d, QuantizedLinear)) else _FLOAT
        claim = bits.get(layer, _FLOAT)
        if _operands(claim) != _operands(actual):
            raise UserError(
                f"{name}: layer {layer!r} is recorded as {_text(claim)}, but is {_text(actual)}"
            )


def _operands(bits: LayerBits) -> tuple[float | None, float | None]:
    return bits.weight_bits, bits.activation_bits


def _text(bits: LayerBits) -> str:
    words = ("float" if b is None else f"{b:g}-bit" for b in _operands(bits))
    return "{} weights and {} inputs".format(*words)


def precision_of(bits: Mapping[str, LayerBits], word_bits: int) -> Precision:
    """Return the billed precision of a network: float operands are whole words.

    Element-wise work is billed at the widest quantised activation, or in words where none is.
    """
    word = Fraction(word_bits)
    weights = {n: _exact(layer.weight_bits) or word for n, layer in bits.items()}
    activations = [_exact(layer.activation_bits) for layer in bits.values()]
    return Precision(weights, max((a for a in activations if a is not None), default=word))


def _exact(bits: float | None) -> Fraction | None:
    # 2.4 in a schedule means 12/5, not the binary fraction nearest to it.
    return None if bits is None else Fraction(str(bits))


def from_plan(
    arch: str, schedule_path: str | None, rules: ModuleType, image_size: int | None, classes: int
) -> Subject:
    """Describe a network that need not exist yet: an architecture and a schedule's targets.

    Raises:
        UserError: the architecture is unknown or the schedule does not fit it.
    """
    with torch.device("meta"):
        model = models.create_model(arch, classes)
    sparsities: dict[str, float] = {}
    bits = None
    name = "plan without a schedule"
    if schedule_path is not None:
        name = f"plan {schedule_path}"
        schedule = load_schedule(schedule_path)
        if schedule.prune is not None:
            sparsities = prune.final_sparsities(model, schedule.prune, schedule_path)
        if schedule.quantize is not None:
            bits = quantize.plan(model, schedule.quantize, schedule_path)
    if image_size is None:
        own = models.default_image_size(arch)
        image_size = rules.IMAGE_SIZE if arch.startswith("efficientnet-b") else own
    return describe(
        model, image_size, bits=bits, sparsities=sparsities, rules=rules, name=name, arch=arch
    )


def from_run(path: str, rules: ModuleType, assume_bits: bool = False) -> Subject:
    """Describe a trained network by its actual zeros and the precision it really has.

    Args:
        path: a run directory or checkpoint.
        rules: the rule set.
        assume_bits: bill the precision that the rule set takes for granted instead, as the 2019
            script did with its float checkpoint.

    Raises:
        UserError: there is no checkpoint, or a layer recorded as quantised is not.
    """
    loaded = runs.load(path)
    where, meta = str(loaded.path), loaded.meta
    if unready := quantize.unready(loaded.model):
        raise UserError(f"{where!r}: quantiser {unready[0]!r} has never seen data")
    image_size = meta.get("image_size")
    if not isinstance(image_size, int):
        raise UserError(f"checkpoint {where!r} does not say its image size")
    return describe(
        loaded.model,
        image_size,
        meta["channels"],
        bits=None if assume_bits else quantize.bits_from_dict(meta["bits"]),
        sparsities=None,
        rules=rules,
        name=where,
        arch=meta["arch"],
    )
