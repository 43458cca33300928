"""What a recipe means for one network: every name and epoch in it held to the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from micronet.compression import features
from micronet.compression.features import FeaturePlan
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import DistillSection, PruneGroup, PruneSection, Recipe
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
    """

    prune: PruneSection | None = None
    prune_groups: Mapping[str, PruneGroup] = field(default_factory=dict)
    quantize_from: int = 0
    bits: Mapping[str, LayerBits] = field(default_factory=dict)
    distill: DistillSection | None = None
    features: FeaturePlan | None = None

    def at_target(self, epoch: int) -> bool:
        """Whether an epoch trains the network at its final sparsity and precision."""
        pruned = self.prune is None or epoch >= prune.last_firing_epoch(self.prune)
        return pruned and (not self.bits or epoch >= self.quantize_from)

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
    model: nn.Module, recipe: Recipe, earlier: Mapping[str, LayerBits] | None = None
) -> CompressionPlan:
    """Hold a recipe's names and epochs to a network.

    Args:
        model: the network, in float or quantized already.
        recipe: its numbers are in range.
        earlier: precision by layer of a network that is quantized already.

    Raises:
        UserError: a name is no layer, training ends before the recipe reaches its target, the
            network is quantized at other bits or steps, or a key is of no use for it.
    """
    epochs = recipe.train.epochs if recipe.train is not None else None
    plan = CompressionPlan(distill=recipe.distill)
    if recipe.distill is not None:
        plan = replace(plan, features=features.resolve(model, recipe.distill, recipe.path))
    if recipe.prune is not None:
        plan = _with_pruning(plan, recipe.prune, recipe.path, model, epochs)
    if recipe.quantize is not None:
        plan = _with_quantization(plan, recipe, model, epochs)
        check_kept(plan.bits, earlier or {}, f"{line_of(recipe.path, 'quantize')}: ")
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


def _with_quantization(
    plan: CompressionPlan, recipe: Recipe, model: nn.Module, epochs: int | None
) -> CompressionPlan:
    section, path = recipe.quantize, recipe.path
    assert section is not None
    bits = quantize.plan(model, section, path)
    if epochs is not None and section.start_epoch >= epochs:
        raise UserError(
            f"{line_of(path, 'quantize.start_epoch')}: quantize.start_epoch {section.start_epoch} "
            f"is not before the end of training, {epochs} epochs"
        )
    return replace(plan, bits=bits, quantize_from=section.start_epoch)
