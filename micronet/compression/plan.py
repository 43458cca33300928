"""What a recipe means for one network: every name and epoch in it held to the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from micronet.compression import features
from micronet.compression.features import FeaturePlan
from micronet.data.preprocessing import Statistics
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.images.moments import with_moments
from micronet.quantization.precision_change import fewest_bits
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe
from micronet.recipe.schema import (
    DistillSection,
    OscillationSection,
    PruneGroup,
    PruneSection,
    QuantizeSection,
)
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class CompressionPlan:
    """Which weights are pruned when, which layers are quantized from when, and what is distilled.

    Attributes:
        prune: the section of the recipe, None where nothing is pruned.
        prune_groups: of every weight that is in one, by the layer that owns it.
        quantize_from: the epoch, from 0, at whose start layers are quantized.
        bits: precision of every layer; empty where nothing is quantized.
        distill: the section of the recipe, None where nothing is distilled.
        features: the modules whose outputs are distilled, None where none is.
        oscillations: the section of the recipe, None where weights are not followed.
        stages: precision of every layer from an epoch on, in the order of epochs, where layers
            come down to ``bits`` by stages, the last of which has it; else empty.
    """

    prune: PruneSection | None = None
    prune_groups: Mapping[str, PruneGroup] = field(default_factory=dict)
    quantize_from: int = 0
    bits: Mapping[str, LayerBits] = field(default_factory=dict)
    distill: DistillSection | None = None
    features: FeaturePlan | None = None
    oscillations: OscillationSection | None = None
    stages: Mapping[int, Mapping[str, LayerBits]] = field(default_factory=dict)

    def at_target(self, epoch: int) -> bool:
        """Whether an epoch trains the network at its final sparsity and precision."""
        pruned = self.prune is None or epoch >= prune.last_firing_epoch(self.prune)
        return pruned and (not self.bits or epoch >= max(self.stages, default=self.quantize_from))

    def bits_at(self, epoch: int) -> Mapping[str, LayerBits]:
        """Return the precision of every layer in an epoch; empty while the network is in float."""
        if epoch < self.quantize_from:
            return {}
        begun = [bits for first, bits in self.stages.items() if first <= epoch]
        return begun[-1] if begun else self.bits

    @property
    def precisions(self) -> list[Mapping[str, LayerBits]]:
        """The precisions of every layer that the plan goes through, the first one first."""
        return list(self.stages.values()) or [self.bits]

    def prunes(self, epoch: int) -> bool:
        """Whether masks are chosen at the start of an epoch."""
        section, groups = self.prune, self.prune_groups.values()
        return section is not None and any(
            epoch in prune.firing_epochs(section, group) for group in groups
        )

    def distills(self, epoch: int) -> bool:
        """Whether an epoch learns from the teacher."""
        return self.distill is not None and epoch >= self.distill.start_epoch

    @property
    def rounded(self) -> list[str]:
        """The layers whose weights are quantized."""
        return [name for name, bits in self.bits.items() if bits.weight_bits is not None]


def resolve(
    model: nn.Module,
    recipe: Recipe,
    earlier: Mapping[str, LayerBits] | None = None,
    *,
    goes_on: bool = False,
    moments: Statistics | None = None,
) -> CompressionPlan:
    """Hold a recipe's names and epochs to a network.

    Args:
        model: the network, in float or quantized already.
        recipe: its numbers are in range.
        earlier: precision by layer of a network that is quantized already.
        goes_on: whether it is in the middle of this recipe, so at the bits of any of its stages.
        moments: mean and standard deviation by which images are normalized, where they are known.

    Raises:
        UserError: a name is no layer, training ends before the recipe reaches its target, the
            network is quantized at other bits or steps, a key is of no use for it, or a layer is
            to read images of which nothing is known.
    """
    epochs = recipe.train.epochs if recipe.train is not None else None
    plan = CompressionPlan(distill=recipe.distill)
    if recipe.distill is not None:
        plan = replace(plan, features=features.resolve(model, recipe.distill, recipe.path))
    if recipe.prune is not None:
        plan = _with_pruning(plan, recipe.prune, recipe.path, model, epochs)
    if recipe.quantize is not None:
        bits = _precision(model, recipe.quantize, recipe.path, moments, earlier or {})
        plan = _with_quantization(plan, recipe, bits, epochs)
        if not (goes_on and earlier in plan.precisions):
            where = f"{line_of(recipe.path, 'quantize')}: "
            check_kept(plan.precisions[0], earlier or {}, where)
    check_steps(recipe, [*plan.bits.values(), *(earlier or {}).values()])
    return plan


def check_steps(recipe: Recipe, every: Iterable[LayerBits]) -> None:
    """Hold what a recipe says of learned steps to there being some.

    Raises:
        UserError: every step follows a range.
    """
    learned = any("learned" in (bits.weight_step, bits.activation_step) for bits in every)
    for key in ("step_optimizer", "step_lr"):
        value = getattr(recipe.train, key, None)
        if value is not None and not learned:
            key = f"train.{key}"
            problem = f"{key} {value} is of no use: the step of no quantizer is learned"
            raise UserError(f"{line_of(recipe.path, key)}: {problem}")


def check_kept(
    bits: Mapping[str, LayerBits], earlier: Mapping[str, LayerBits], where: str = ""
) -> None:
    """Hold a precision to leaving layers that are quantized as they are.

    Raises:
        UserError: one is quantized at other bits or steps.
    """
    for name, own in earlier.items():
        if not own.is_float and bits.get(name) != own:
            raise UserError(
                f"{where}the network is already quantized at other bits or steps, as in layer "
                f"{name!r}"
            )


def _with_pruning(
    plan: CompressionPlan, section: PruneSection, path: str, model: nn.Module, epochs: int | None
) -> CompressionPlan:
    groups = prune.layer_groups(model, section, path)
    last = prune.last_firing_epoch(section)
    if epochs is not None and last >= epochs:
        key = "prune.end_epoch" if section.method == "gradual" else "prune.start_epoch"
        raise UserError(
            f"{line_of(path, key)}: {key} reaches its sparsity in epoch {last + 1}, "
            f"but training ends after epoch {epochs}"
        )
    return replace(plan, prune=section, prune_groups=groups)


def _precision(
    model: nn.Module,
    section: QuantizeSection,
    path: str,
    moments: Statistics | None,
    earlier: Mapping[str, LayerBits],
) -> dict[str, LayerBits]:
    """Return the precision of every layer, those that read images knowing how these are made."""
    where = f"{line_of(path, 'quantize')}: "
    return with_moments(model, quantize.plan(model, section, path), moments, earlier, where)


def _with_quantization(
    plan: CompressionPlan, recipe: Recipe, bits: Mapping[str, LayerBits], epochs: int | None
) -> CompressionPlan:
    section, path = recipe.quantize, recipe.path
    assert section is not None
    if epochs is not None and section.start_epoch >= epochs:
        raise UserError(
            f"{line_of(path, 'quantize.start_epoch')}: quantize.start_epoch {section.start_epoch} "
            f"is not before the end of training, {epochs} epochs"
        )
    plan = replace(plan, bits=bits, quantize_from=section.start_epoch)
    if section.oscillations is not None and not plan.rounded:
        raise UserError(
            f"{line_of(path, 'quantize.oscillations')}: quantize.oscillations follows quantized "
            "weights, but no layer has any"
        )
    return replace(
        plan, oscillations=section.oscillations, stages=_stages(bits, section, path, epochs)
    )


def _stages(
    bits: Mapping[str, LayerBits], section: QuantizeSection, path: str, epochs: int | None
) -> dict[int, Mapping[str, LayerBits]]:
    """Return the precision of every layer from the epoch of each stage on.

    Raises:
        UserError: a number of a stage changes no layer, or the last stage does not reach the
            recipe's precision before the end of training.
    """
    found: dict[int, Mapping[str, LayerBits]] = {}
    before, weights, activations = bits, None, None
    for i, stage in enumerate(section.progressive):
        weights = weights if stage.weights is None else stage.weights
        activations = activations if stage.activations is None else stage.activations
        found[stage.epoch] = after = fewest_bits(bits, weights, activations)
        for operand, number in (("weight", stage.weights), ("activation", stage.activations)):
            if number is not None and _same(operand, before, after):
                key = f"quantize.progressive[{i}].{operand}s"
                raise UserError(
                    f"{line_of(path, key)}: {key} {number:g} changes no layer of this network"
                )
        before = after
    if found:
        _check_last(bits, found, path, epochs)
    return found


def _same(operand: str, some: Mapping[str, LayerBits], others: Mapping[str, LayerBits]) -> bool:
    """Whether an operand has the same bits in every layer."""
    key = f"{operand}_bits"
    return all(getattr(some[name], key) == getattr(others[name], key) for name in some)


def _check_last(
    bits: Mapping[str, LayerBits],
    stages: Mapping[int, Mapping[str, LayerBits]],
    path: str,
    epochs: int | None,
) -> None:
    key, last = f"quantize.progressive[{len(stages) - 1}]", max(stages)
    if epochs is not None and last >= epochs:
        raise UserError(
            f"{line_of(path, key)}: {key} begins in epoch {last + 1}, but training ends after "
            f"epoch {epochs}"
        )
    for name, reached in stages[last].items():
        if reached != bits[name]:
            operand = "activation" if reached.weight_bits == bits[name].weight_bits else "weight"
            left, own = (getattr(b, f"{operand}_bits") for b in (reached, bits[name]))
            raise UserError(
                f"{line_of(path, key)}: {key}, the last one, leaves {operand}s of layer {name!r} "
                f"at {left:g} bits, but the recipe asks for {own:g}"
            )
