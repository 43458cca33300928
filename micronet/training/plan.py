"""What a stage does, with every name of its schedule already held to the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from micronet.pruning import prune
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import (
    AugmentSection,
    DistillSection,
    PruneGroup,
    PruneSection,
    TrainSection,
)


@dataclass(frozen=True)
class TrainingPlan:
    """What a stage does, with every name already held to the network."""

    stage: str
    train: TrainSection
    prune: PruneSection | None = None
    prune_groups: Mapping[str, PruneGroup] = field(default_factory=dict)
    quantize_from: int = 0
    bits: Mapping[str, LayerBits] = field(default_factory=dict)
    distill: DistillSection | None = None
    augment: AugmentSection | None = None

    def at_target(self, epoch: int) -> bool:
        """Whether an epoch trains the network at its final sparsity and precision."""
        pruned = self.prune is None or epoch >= prune.last_firing_epoch(self.prune)
        return pruned and (not self.bits or epoch >= self.quantize_from)

    def distills(self, epoch: int) -> bool:
        """Whether an epoch learns from the teacher."""
        return self.distill is not None and epoch >= self.distill.start_epoch


@dataclass(frozen=True)
class StepLocation:
    """A step of a run, as messages name it, and what they say of the last good checkpoint."""

    stage: str
    epoch: int
    step: int
    last_good: str

    def __str__(self) -> str:
        """Return for example ``qat epoch 3, step 17``, both counted from 1."""
        return f"{self.stage} epoch {self.epoch + 1}, step {self.step + 1}"
