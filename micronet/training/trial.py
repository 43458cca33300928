"""What a run asks of a network, as it is asked once before the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from micronet.compression.features import FeaturePlan
from micronet.data.datasets import Data
from micronet.quantization.quantize import LayerBits
from micronet.training.plan import TrainingPlan


@dataclass(frozen=True)
class Trial:
    """What a run asks of a network.

    Attributes:
        name: of the network, for messages.
        shape: of one image.
        classes: of the data.
        evaluated: numbers of images to evaluate at once.
        trained: numbers of images to train at once; none where it is only evaluated.
        amp: the type that float layers train in.
        bits: precision of the layers that are to be quantized.
        masks: what is pruned already.
        path: of the recipe, for messages.
        reestimates: whether statistics of its normalization are to be re-estimated.
        features: what of it is compared with its teacher, if anything.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    evaluated: tuple[int, ...]
    trained: tuple[int, ...] = ()
    amp: str = "none"
    bits: Mapping[str, LayerBits] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    path: str = ""
    reestimates: bool = False
    features: FeaturePlan | None = None

    @classmethod
    def of_evaluation(cls, name: str, data: Data, images: int) -> Trial:
        """Return the trial of a pass over some ``images`` of a data set, in order."""
        shape = (data.channels, data.image_size, data.image_size)
        shares = {images // data.processes, -(-images // data.processes)}
        sizes = [size for share in shares for size in _sizes(share, data.batch_size)]
        return cls(name, shape, data.num_classes, _few(sizes))

    @classmethod
    def of_training(
        cls, name: str, data: Data, plan: TrainingPlan, masks: Mapping[str, Tensor], path: str
    ) -> Trial:
        """Return the trial of a stage: its steps, and its passes over the validation images."""
        batch = min(data.batch_size, data.train_size) // data.processes
        return dataclasses.replace(
            cls.of_evaluation(name, data, data.validation_size),
            trained=_few(_sizes(batch, -(-batch // plan.train.accumulate))),
            amp=plan.train.amp,
            bits=plan.compression.bits,
            masks=masks,
            path=path,
            reestimates=plan.train.reestimate_batches > 0,
            features=plan.compression.features,
        )

    @property
    def image(self) -> str:
        """The shape of an image as text."""
        return "x".join(map(str, self.shape))


def _sizes(images: int, batch: int) -> tuple[int, int]:
    """Return the sizes of the first and the last batch of some images."""
    return min(images, batch), images % batch or min(images, batch)


def _few(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return the sizes to try for those that a run has: one image is special, more are alike."""
    return tuple(sorted({min(size, 2) for size in sizes if size > 0}))
