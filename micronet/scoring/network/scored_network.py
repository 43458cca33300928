"""What is scored: a network's structure, its non-zero weights, and the bits of its operands.

``describe_network`` is the one place where a network becomes one that is scored; a plan, a run and
a file of weights reach it by ``from_plan``, ``from_run`` and ``from_weights``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from micronet.models import architectures
from micronet.models.shared_tensors import View, view_of
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.quantize import LayerBits
from micronet.runs import directory
from micronet.scoring.network import layer_facts
from micronet.scoring.network.assumptions import Assumptions
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.plan_files import Plan
from micronet.scoring.operations.operation_walk import Forward
from micronet.scoring.operations.records import Conv, Linear, Op
from micronet.utils.errors import UserError, nearest

_FLOAT = LayerBits(None, None)


@dataclass(frozen=True)
class ScoredNetwork:
    """A network to score.

    Attributes:
        name: where it comes from.
        arch: what it is.
        model: only its structure counts.
        image_size: side of the square input in pixels.
        channels: of the input.
        layers: facts of every convolution and linear layer by name, in module order.
        precision_source: how the bits are known.
        zeros_source: how the zeros are known.
        accumulator: one of ``accumulators.KINDS``, how wide additions are claimed to be.
        forward: what runs all that is counted; see ``operation_walk.walk``.
    """

    name: str
    arch: str
    model: nn.Module
    image_size: int
    channels: int
    layers: Mapping[str, LayerFacts]
    precision_source: str
    zeros_source: str
    accumulator: str = "32"
    forward: Forward | None = None

    @property
    def nonzeros(self) -> dict[str, int]:
        """Non-zero weights by layer before they are quantized, as pruning leaves them."""
        return {name: facts.kept for name, facts in self.layers.items()}

    def facts_of(self, op: Conv | Linear) -> LayerFacts:
        """Return the facts of the layer that an operation of the walk is.

        What a function of torch multiplies by belongs to no layer, or past one: it is dense, in
        float.

        Raises:
            UserError: the layer is quantized and a function takes its weights as they are, or the
                operation takes a part of them.
        """
        owner = op.name if op.name in self.layers else op.name.rpartition(".")[0]
        facts = self.layers.get(owner)
        if facts is not None and not op.by_layer and not facts.bits.is_float:
            raise UserError(
                f"{self.arch}: layer {owner!r} is quantized, but a function also takes its weights "
                "as they are, in float"
            )
        if op.name not in self.layers:
            return _of_function(op)
        if op.weights != self.layers[op.name].numel:
            raise UserError(
                f"{self.arch}: layer {op.name!r} multiplies by {op.weights} weights, but has "
                f"{self.layers[op.name].numel}"
            )
        return self.layers[op.name]

    def functional_layers(self, ops: Iterable[Op]) -> dict[str, LayerFacts]:
        """Return the facts of convolutions and linear layers that no module is, by name."""
        found = (op for op in ops if isinstance(op, (Conv, Linear)))
        return {op.name: self.facts_of(op) for op in found if op.name not in self.layers}

    @property
    def is_quantized(self) -> bool:
        """Whether any operand of any layer is quantized."""
        return any(not facts.bits.is_float for facts in self.layers.values())


def _of_function(op: Conv | Linear) -> LayerFacts:
    """Return the facts of a convolution or linear layer that no module is."""
    rows = op.shape[0]
    each = (op.weights // rows,) * rows
    return LayerFacts(op.name, op.shape, _FLOAT, each, op.weights, op.bias)


def describe_network(
    model: nn.Module,
    image_size: int,
    channels: int = 3,
    *,
    bits: Mapping[str, LayerBits] | None,
    sparsities: Mapping[str, float] | None,
    rules: Assumptions,
    name: str = "network",
    arch: str | None = None,
    accumulator: str = "32",
    forward: Forward | None = None,
) -> ScoredNetwork:
    """Describe a network as it is, or with planned zeros.

    Args:
        model: any network that ``operation_walk.walk`` takes; of a plan only its structure counts.
        image_size: side of the square input in pixels.
        channels: of the input.
        bits: precision by layer, layers without an entry being float; None bills what the rule
            set takes for granted.
        sparsities: planned share of zeros by layer, others dense; None counts the actual zeros,
            and holds ``bits`` to the layers' actual precision.
        rules: the rule set.
        name: where the network comes from.
        arch: what it is; its class's name by default.
        accumulator: one of ``accumulators.KINDS``.
        forward: what runs all that is counted; see ``operation_walk.walk``.

    Raises:
        UserError: a named layer is none of the model's, or its precision is not the one claimed.
    """
    layers = architectures.layers(model)
    for claimed in [*(bits or {}), *(sparsities or {})]:
        if claimed not in layers:
            raise UserError(f"{name}: {claimed!r} is no layer{nearest(claimed, layers)}")
    if sparsities is None and bits is not None:
        _check_precision(layers, bits, name)
    known = _known_bits(model, bits, rules)
    # Weights of a float checkpoint are on no grid; assumed bits claim nothing about them.
    facts = _facts(layers, known, sparsities, name, holds=bits is not None)
    source = "as planned" if sparsities is not None else "as they are"
    return ScoredNetwork(
        name,
        arch or type(model).__name__,
        model,
        image_size,
        channels,
        facts,
        "taken for granted by the rule set" if bits is None else source,
        "as planned, spread evenly over output channels" if sparsities is not None else source,
        accumulator,
        forward,
    )


def _known_bits(
    model: nn.Module, bits: Mapping[str, LayerBits] | None, rules: Assumptions
) -> dict[str, LayerBits]:
    """Return the precision of every layer: as given, or as the rule set assumes."""
    layers = architectures.layers(model)
    if bits is None:
        # A network of functions has no layer that could be either.
        has_stem = any(isinstance(layer, _ConvNd) for layer in layers.values())
        stem = architectures.stem_name(model) if has_stem else ""
        classifier = architectures.classifier_name(model) if layers else ""
        bits = rules.assumed_bits(list(layers), stem, classifier)
    return {n: bits.get(n, _FLOAT) for n in layers}


def _facts(
    layers: Mapping[str, architectures.Layer],
    bits: Mapping[str, LayerBits],
    sparsities: Mapping[str, float] | None,
    where: str,
    holds: bool,
) -> dict[str, LayerFacts]:
    facts: dict[str, LayerFacts] = {}
    stored: set[View] = set()
    for name, layer in layers.items():
        weight = view_of(layer.weight)
        shared = weight in stored
        stored.add(weight)
        if sparsities is None:
            facts[name] = layer_facts.actual(name, layer, bits[name], where, shared, holds)
        else:
            numel = layer.weight.numel()
            kept = numel - prune.pruned_weights(numel, sparsities.get(name, 0.0))
            facts[name] = layer_facts.planned(name, layer, bits[name], kept, shared)
    return facts


def _check_precision(
    layers: Mapping[str, nn.Module], bits: Mapping[str, LayerBits], name: str
) -> None:
    """Hold what is claimed of a network to what its layers do.

    A plain layer may hold weights that another program has quantized, which their values show;
    the rounding of its input they cannot show.
    """
    for layer, module in layers.items():
        is_ours = isinstance(module, QuantizedLayer)
        actual = module.bits if isinstance(module, QuantizedLayer) else _FLOAT
        claim = bits.get(layer, _FLOAT)
        unlike = _operands(claim) != _operands(actual)
        if unlike and (is_ours or claim.activation_bits is not None):
            raise UserError(
                f"{name}: layer {layer!r} is recorded as {_text(claim)}, but is {_text(actual)}"
            )


def _operands(bits: LayerBits) -> tuple[float | None, float | None]:
    return bits.weight_bits, bits.activation_bits


def _text(bits: LayerBits) -> str:
    words = ("float" if b is None else f"{b:g}-bit" for b in _operands(bits))
    return "{} weights and {} inputs".format(*words)


def from_plan(plan: Plan, rules: Assumptions, accumulator: str = "32") -> ScoredNetwork:
    """Describe a network that need not exist yet: an architecture and a schedule's targets.

    Raises:
        UserError: the architecture is unknown or the schedule does not fit it.
    """
    model = plan.structure()
    sparsities, bits = plan.targets(model)
    return _planned(plan, model, rules, accumulator, plan.name, bits, sparsities)


def from_weights(
    plan: Plan, weights: str, rules: Assumptions, accumulator: str = "32"
) -> ScoredNetwork:
    """Describe weights that another program made, by their actual zeros and values.

    Args:
        plan: the architecture, and the precision that is claimed of the weights.
        weights: a file that ``models.load_weights`` reads.
        rules: the rule set.
        accumulator: one of ``accumulators.KINDS``.

    Raises:
        UserError: the file does not fit the architecture, or a layer is not as claimed.
    """
    model = plan.network()
    architectures.load_weights(model, weights)
    _, bits = plan.targets(model)
    return _planned(plan, model, rules, accumulator, weights, bits, None)


def _planned(
    plan: Plan,
    model: nn.Module,
    rules: Assumptions,
    accumulator: str,
    name: str,
    bits: Mapping[str, LayerBits] | None,
    sparsities: Mapping[str, float] | None,
) -> ScoredNetwork:
    return describe_network(
        model,
        plan.size_for(rules),
        bits=bits,
        sparsities=sparsities,
        rules=rules,
        name=name,
        arch=plan.arch,
        accumulator=accumulator,
    )


def from_run(
    path: str, rules: Assumptions, assume_bits: bool = False, accumulator: str = "32"
) -> ScoredNetwork:
    """Describe a trained network by its actual zeros and the precision it really has.

    Args:
        path: a run directory or checkpoint.
        rules: the rule set.
        assume_bits: bill the precision that the rule set takes for granted instead, as the 2019
            script did with its float checkpoint.
        accumulator: one of ``accumulators.KINDS``.

    Raises:
        UserError: there is no checkpoint, or a layer recorded as quantized is not.
    """
    loaded = directory.load(path)
    where, meta = str(loaded.path), loaded.meta
    if uninitialized := quantize.uninitialized(loaded.model):
        raise UserError(f"{where!r}: quantizer {uninitialized[0]!r} has never seen data")
    image_size = meta.get("image_size")
    if not isinstance(image_size, int):
        raise UserError(f"{where!r} does not say its image size")
    return describe_network(
        loaded.model,
        image_size,
        meta["channels"],
        bits=None if assume_bits else quantize.bits_from_dict(meta["bits"]),
        sparsities=None,
        rules=rules,
        name=where,
        arch=meta["arch"],
        accumulator=accumulator,
    )
