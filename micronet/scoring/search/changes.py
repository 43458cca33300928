"""A plan with one thing changed: other bits or another sparsity of some layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from micronet.quantization.quantize import LayerBits
from micronet.recipe.schema import MOST_BITS
from micronet.scoring.network.layer_facts import LayerFacts, spread
from micronet.scoring.network.scored_network import ScoredNetwork
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class Change:
    """New precision of the weights, of the input, and share of zeros; None leaves one as it is."""

    bits: Fraction | None = None
    inputs: Fraction | None = None
    sparsity: Fraction | None = None

    def __str__(self) -> str:
        """Name what is changed."""
        said = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return ", ".join(f"{name} {float(value):g}" for name, value in said if value is not None)

    def problem(self) -> str | None:
        """Return what is wrong with a value, None where nothing is."""
        for name in ("bits", "inputs"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_BITS:
                return f"{name} {float(value):g} is not between 1 and {MOST_BITS}"
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            return f"sparsity {float(self.sparsity):g} is not in [0, 1)"
        return None

    def applied_to(self, facts: LayerFacts) -> LayerFacts:
        """Return the layer with the change; its zeros are spread evenly."""
        bits = facts.bits
        if self.bits is not None:
            bits = dataclasses.replace(bits, weight_bits=float(self.bits))
        if self.inputs is not None:
            bits = _with_inputs(bits, float(self.inputs))
        kept = facts.kept
        if self.sparsity is not None:
            kept = facts.numel - int(self.sparsity * facts.numel)
        nonzeros = spread(kept, facts.shape[0])
        return dataclasses.replace(facts, bits=bits, kept=kept, nonzeros=nonzeros)


def _with_inputs(bits: LayerBits, inputs: float) -> LayerBits:
    """Return the precision with other bits of the input, which an image has no more then."""
    if bits.reads_image and inputs != bits.activation_bits:
        bits = dataclasses.replace(bits, activation_step="range", image_mean=None, image_std=None)
    return dataclasses.replace(bits, activation_bits=inputs)


def changed(subject: ScoredNetwork, changes: Mapping[str, Change]) -> ScoredNetwork:
    """Return a subject with some layers changed."""
    layers = dict(subject.layers)
    for name, change in changes.items():
        layers[name] = change.applied_to(layers[name])
    return dataclasses.replace(subject, layers=layers)


def check_is_plan(subject: ScoredNetwork, option: str) -> None:
    """Refuse weights that exist already.

    Raises:
        UserError: the subject is no plan.
    """
    if subject.zeros_source == "as they are":
        reason = "which of a network's weights would be zero at other bits is not known"
        raise UserError(f"{option} needs a plan, not {subject.name!r}: {reason}")
