"""What a stage does, with every name of its schedule already held to the network."""

from __future__ import annotations

from dataclasses import dataclass, field

from micronet.compression.plan import CompressionPlan
from micronet.recipe.schema import AugmentSection, TrainSection


@dataclass(frozen=True)
class TrainingPlan:
    """What a stage does: how it trains, and what it makes of the network meanwhile."""

    stage: str
    train: TrainSection
    compression: CompressionPlan = field(default_factory=CompressionPlan)
    augment: AugmentSection | None = None


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
