"""Storage as the scripts of the 2019 entry (IST) counted it, in all of their versions.

First in words of 16 bits over every entry of the state dict, running statistics and counters of
normalizations included; from its fourth version in bits, with a bit mask for each tensor that has a
zero, without normalizations but with the biases that they fold into. Quirks of the latter: such a
bias is billed in its layer's bits, sparse like the layer's weights and with a mask; scales and zero
points are forgotten; a float layer is billed 16 bits though others are quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.scoring.rules.ist import elementwise_bits, weight_bits
from micronet.scoring.rules.rule_set import Cost

FLOAT_BITS = 16


@dataclass(frozen=True)
class StorageRules:
    """One version: with masks, in parameters of 32 bits, or without, in words of 16.

    A fractional number of bits may be billed as the next whole one.
    """

    masks: bool = False
    whole_bits: bool = False

    @property
    def word_bits(self) -> int:
        """Bits of one unit."""
        return 32 if self.masks else 16


def storage(rules: StorageRules, subject: ScoredNetwork) -> Iterator[Cost]:
    """Yield the cost of every stored tensor, in the order of the state dict."""
    return _in_bits(rules, subject) if rules.masks else _in_words(rules, subject)


def _entries(subject: ScoredNetwork) -> Iterator[tuple[str, str, str, int]]:
    """Yield (entry, module, field, numel) of the state dict of the float network."""
    owners = dict(subject.model.named_modules())
    for entry, tensor in subject.model.state_dict().items():
        name, _, field = entry.rpartition(".")
        if not isinstance(owners[name], InputQuantizer) and field != "weight_step":
            yield entry, name, field, tensor.numel()


def _kind(subject: ScoredNetwork, name: str) -> str:
    is_linear = isinstance(subject.model.get_submodule(name), nn.Linear)
    return "linear" if is_linear else "convolution"


def _in_words(rules: StorageRules, subject: ScoredNetwork) -> Iterator[Cost]:
    elementwise = elementwise_bits(subject) or FLOAT_BITS
    for entry, name, field, numel in _entries(subject):
        dense = Fraction(numel)
        layer = name if name in subject.layers else ""
        if field == "bias":
            yield Cost(entry, "bias", dense, dense, layer)
        elif layer:
            bits = weight_bits(subject, name, rules.whole_bits) or FLOAT_BITS
            used = subject.nonzeros[name] * Fraction(bits) / FLOAT_BITS
            yield Cost(entry, _kind(subject, name), used, dense, layer)
        else:
            yield Cost(entry, "normalization", dense * elementwise / FLOAT_BITS, dense)


def _in_bits(rules: StorageRules, subject: ScoredNetwork) -> Iterator[Cost]:
    float_size = Fraction(FLOAT_BITS, rules.word_bits)
    for entry, name, field, numel in _entries(subject):
        if isinstance(subject.model.get_submodule(name), nn.modules.batchnorm._BatchNorm):
            continue
        dense = numel * float_size
        if name not in subject.layers:
            yield Cost(entry, "other", dense, dense)
        elif field == "bias":
            yield Cost(entry, "bias", dense, dense, name)
        else:
            yield from _layer(rules, subject, entry, name)


def _layer(rules: StorageRules, subject: ScoredNetwork, entry: str, name: str) -> Iterator[Cost]:
    """Yield the cost of a layer's weights, and of the bias that its normalization folds into."""
    facts = subject.layers[name]
    bits = weight_bits(subject, name, rules.whole_bits) or Fraction(FLOAT_BITS)
    kept = Fraction(subject.nonzeros[name], facts.numel)
    tensors = [(entry, _kind(subject, name), facts.numel)]
    if not facts.bias:
        tensors.append((f"{name}.bias (folded)", "bias", facts.shape[0]))
    for stored, kind, numel in tensors:
        mask = numel if kept < 1 else 0
        used = (numel * kept * bits + mask) / rules.word_bits
        yield Cost(stored, kind, used, Fraction(numel * FLOAT_BITS, rules.word_bits), name)
