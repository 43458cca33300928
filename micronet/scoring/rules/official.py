"""Rule set ``micronet``: the official rules of the MicroNet Challenge 2019, in full. The default.

Source: the challenge's page on scoring and its counter for EfficientNet (``counting.py`` in
google-research, ``micronet_challenge``). Storage is in parameters of 32 bits, operations in
operations on 32 bits; multiplications and additions count apart.

* A value of b bits is b/32 of a parameter; L levels take ``ceil(log2 L)`` bits, so 5 levels take 3.
  A tensor of weights is stored dense, behind a bit mask or behind a block mask, whichever is
  smallest (``layouts``); the cost's note says which.
* Normalizations fold into the layer before them where only they read its output: a bias of one
  float for each output channel, stored and added. Others store a scale and a shift.
* A packed file keeps the factors of a normalization behind float sums, one float for each output
  channel, because evaluation multiplies by them after it has summed; its score counts them. That of
  a network does not: there the rules let them be taken into float weights.
* Quantized weights store one float scale for each output channel and their zero point, quantized
  inputs one of each; a zero point takes the bits of a code.
* A layer that reads images as grey values multiplies 8-bit integers. Their normalization is in its
  weights, in the scale of its input and in a bias, stored and added as any, once where another is
  folded into it; a grey value for each channel of the image is what a padding counts as.
* An operation counts the bits of its widest input over 32. A product of a float and anything is
  whole, but with weights of one bit, whose values are a scale and a sign, it is 1/32: a float has a
  sign bit of its own, which codes have not.
* An output of z products takes z - 1 additions, at the accumulator's width (``accumulators``), and
  one more of 32 bits for its bias. An output without products is its bias, and takes none.
* If nothing at all is quantized, parameters and multiplications count as 16 bits, additions as 32.
* Between layers values are floats: quantizers stand at the inputs of convolutions and linear
  layers, so activation functions, poolings, gates and residual additions work on 32 bits. To scale
  an accumulator or to round to a code is a conversion of format, which the rules leave free.
* A convolution or linear layer that is no module but a function of torch, called with parameters or
  buffers of the network, is dense and float: nothing prunes or quantizes it.
* Steps that the counter has no price for follow its definition, one operation a step (see
  ``ACTIVATIONS``); a maximum is a comparison, priced like ReLU as a multiplication. A reordering of
  channels is a product with a sparse permutation matrix: one multiplication an element, and its
  column indices stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod

from torch import Tensor

from micronet.quantization.quantize import LayerBits
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.operations.records import BatchNorm, Op, Permutation
from micronet.scoring.rules.official_operations import FULL, bits_of, float_bits, operations
from micronet.scoring.rules.rule_set import Cost, RuleSet


def assumed_bits(layers: Sequence[str], stem: str, classifier: str) -> dict[str, LayerBits]:
    """Return no precision: what is not said to be quantized is float."""
    return {}


def storage(subject: ScoredNetwork, ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the parameters of every layer, of what folds into none, and of permutations."""
    folded = {op.folds_into for op in ops if isinstance(op, BatchNorm)}
    bits = float_bits(subject)
    for facts in subject.layers.values():
        if not facts.shared:
            yield from _weights(facts, bits)
        yield from _biases(facts, facts.name in folded, bits)
        yield from _factors(facts)
        yield from _quantizers(facts)
    yield from _others(subject, ops, bits)
    yield from _permutations(ops)


def _permutations(ops: Sequence[Op]) -> Iterator[Cost]:
    """Yield the indices of every reordering, once however often its module is called."""
    found = {(op.name, op.ordinal): op for op in ops if isinstance(op, Permutation)}
    for op in found.values():
        index_bits = ((op.among or op.channels) - 1).bit_length()
        used = _parameters(op.channels, index_bits)
        yield Cost(op.name, "permutations", used, used, note=f"indices of {index_bits} bits")


def _parameters(values: int, bits: int) -> Fraction:
    return Fraction(values * bits, FULL)


def _weights(facts: LayerFacts, floats: int) -> Iterator[Cost]:
    bits = bits_of(facts.bits.weight_levels) or floats
    layout = facts.layout(floats)
    name, note = f"{facts.name}.weight", f"{layout.name}, {bits} bits"
    dense = Fraction(facts.numel)
    yield Cost(name, "weights", _parameters(layout.values, bits), dense, facts.name, note=note)
    if layout.mask_bits:
        mask = _parameters(layout.mask_bits, 1)
        yield Cost(name, "masks", mask, Fraction(0), facts.name, note=layout.name)


def _biases(facts: LayerFacts, is_folded: bool, bits: int) -> Iterator[Cost]:
    if facts.bias or is_folded:
        channels = facts.shape[0]
        note = "of the folded normalization" if is_folded else ""
        used = _parameters(channels, bits)
        yield Cost(f"{facts.name}.bias", "biases", used, Fraction(channels), facts.name, note=note)


def _factors(facts: LayerFacts) -> Iterator[Cost]:
    """Yield the factors of a normalization that a packed network keeps behind float sums."""
    if facts.has_factors:
        used = Fraction(facts.shape[0])
        name, note = f"{facts.name}.norm_scale", "of the folded normalization"
        yield Cost(name, "normalizations", used, Fraction(0), facts.name, note=note)


def _quantizers(facts: LayerFacts) -> Iterator[Cost]:
    """Yield the scales and zero points of both operands."""
    outputs, inputs = facts.shape[:2]
    if facts.bits.image_mean is not None:
        inputs = len(facts.bits.image_mean)  # of all groups
    zeros = inputs if facts.bits.reads_image else 1
    operands = [
        ("weights", outputs, outputs, bits_of(facts.bits.weight_levels)),
        ("input", 1, zeros, bits_of(facts.bits.activation_levels)),
    ]
    for operand, number, zero_points, bits in operands:
        if bits is not None:
            used = _parameters(number, FULL) + _parameters(zero_points, bits)
            name = f"{facts.name} quantizer of {operand}"
            zero_text = "zero points" if zero_points == number else f"{zero_points} zero points"
            note = f"{number} scales of {FULL} bits, {zero_text} of {bits} bits"
            yield Cost(name, "scales and zero points", used, Fraction(0), facts.name, note=note)


def _others(subject: ScoredNetwork, ops: Sequence[Op], bits: int) -> Iterator[Cost]:
    """Yield the values that belong to no layer: of normalizations, or free-standing.

    A bias that a normalization folds into is its functional layer's.
    """
    # One that folds at one call and not at another is kept.
    found = sorted(
        (op for op in ops if isinstance(op, BatchNorm)), key=lambda op: not op.folds_into
    )
    norms = {op.name: op for op in found}
    for name, norm in norms.items():
        if not norm.folds_into:
            values = 2 * norm.channels
            used = _parameters(values, bits)
            yield Cost(name, "normalizations", used, Fraction(values), note="scale and shift")
    functions = subject.functional_layers(ops)
    for entry, tensor in _free_standing(subject, norms, functions):
        values = prod(tensor.shape)
        layer = entry if entry in functions else ""
        yield Cost(entry, "other parameters", _parameters(values, bits), Fraction(values), layer)
    for norm in norms.values():
        facts = functions.get(norm.folds_into or "")
        if facts and not facts.bias:
            yield from _biases(facts, True, bits)


def _free_standing(
    subject: ScoredNetwork, norms: Mapping[str, BatchNorm], functions: Mapping[str, LayerFacts]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that no layer and no normalization owns, and such weights in buffers."""
    owners = dict(subject.model.named_modules())
    done = {*subject.layers, *norms, *(p for op in norms.values() for p in op.parameters)}
    for entry, parameter in subject.model.named_parameters():
        owner, _, field = entry.rpartition(".")
        # What a weight is computed from need not be stored beside it.
        owner = owner.partition(".parametrizations.")[0]
        is_extra = entry in functions and field != "weight"
        # A learned step is the scale of its quantizer.
        is_owned = owner in done or entry in done or isinstance(owners[owner], InputQuantizer)
        if is_extra or not is_owned:
            yield entry, parameter
    yield from ((entry, b) for entry, b in subject.model.named_buffers() if entry in functions)


OFFICIAL = RuleSet("micronet", FULL, assumed_bits, storage, operations, bills_accumulators=True)
