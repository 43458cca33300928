"""Accuracy in whole images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet.models.failures import failures_of, logits_of
from micronet.quantization.faults import require_sound_quantizers
from micronet.training.optimizer import device_of, in_order, memory_order
from micronet.utils import distributed
from micronet.utils.errors import UserError
from micronet.utils.modes import evaluation_mode


@dataclass(frozen=True)
class Accuracy:
    """How many of ``total`` images were classified right; ``loss`` is the mean cross entropy."""

    correct: int
    correct5: int
    total: int
    ties: int
    loss: float

    @property
    def top1(self) -> float:
        """Top-1 in per cent."""
        return 100.0 * self.correct / self.total

    @property
    def top5(self) -> float:
        """Top-5 in per cent."""
        return 100.0 * self.correct5 / self.total


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    channels_last: bool = True,
    name: str | None = None,
) -> Accuracy:
    """Classify every image once, in evaluation mode; each module's mode is restored.

    Where several processes train, each brings its own images, and all get the sums.

    Logits that tie for the maximum count for the lowest class index, and are reported, because
    quantized networks do tie and another rule would move the top-1.

    Args:
        model: the network.
        batches: images and their labels.
        channels_last: the order of images in memory.
        name: of the network, for messages; its class by default.

    Raises:
        UserError: the network fails, returns no logits of these classes, labels are no class
            indices, there is no image, or a range, a learned step or offset is none.
    """
    name = name or type(model).__name__
    require_sound_quantizers(model, f"{name} cannot be evaluated: ")
    sums: tuple[float, ...] = (0, 0, 0, 0, 0.0)
    with evaluation_mode(model):
        for images, labels in batches:
            found = _judged(model, images, labels, memory_order(channels_last), name)
            sums = tuple(before + new for before, new in zip(sums, found, strict=True))
    hits, hits5, total, tied, loss = distributed.sums(*sums)
    if not total:
        raise UserError(f"{name} cannot be evaluated: there is no image that is not damaged")
    return Accuracy(int(hits), int(hits5), int(total), int(tied), loss / total)


def _judged(
    model: nn.Module, images: Tensor, labels: Tensor, order: torch.memory_format, name: str
) -> tuple[int, int, int, int, float]:
    """Return a batch's hits, hits among the five best, images, ties, and sum of losses."""
    device = device_of(model)
    images = in_order(images.to(device), order)
    with failures_of(f"{name} cannot be evaluated"):
        logits = logits_of(model(images), len(images), name)
    labels = _class_indices(labels, logits, name).to(device)
    best = logits.max(dim=1, keepdim=True).values
    rank = _rank(logits, labels)
    return (
        int((rank == 0).sum()),
        int((rank < 5).sum()),
        len(labels),
        int(((logits == best).sum(dim=1) > 1).sum()),
        float(F.cross_entropy(logits, labels, reduction="sum")),
    )


def _class_indices(labels: Tensor, logits: Tensor, name: str) -> Tensor:
    """Hold labels to being one class index for each row of logits; return them as int64."""
    count, classes = logits.shape
    if labels.shape != (count,) or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        raise UserError(
            f"{name} cannot be evaluated: labels are one class index for each of {count} images, "
            f"not {kind} of shape {tuple(labels.shape)}"
        )
    if bool((labels >= classes).any()):
        raise UserError(f"{name} knows {classes} classes, but the data has more")
    if bool((labels < 0).any()):
        raise UserError(f"{name} cannot be evaluated: a label is {int(labels.min())}")
    return labels.long()


def _rank(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the label's: larger logits, or equal and lower index."""
    own = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (index < labels[:, None]))
    # A NaN logit is never "larger": count it as wrong.
    wrong = torch.isnan(logits).any(dim=1)
    return before.sum(dim=1) + wrong * logits.shape[1]
