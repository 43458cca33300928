"""Accuracy in whole images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet.models.failures import failures_of, logits_of
from micronet.training.optimizer import device_of, in_order, memory_order
from micronet.utils import distributed
from micronet.utils.errors import UserError


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
    """Classify every image once, in evaluation mode; the model's mode is restored.

    Where several processes train, each brings its own images, and all get the sums.

    Logits that tie for the maximum count for the lowest class index, and are reported, because
    quantized networks do tie and another rule would move the top-1.

    Args:
        model: the network.
        batches: images and their labels.
        channels_last: the order of images in memory.
        name: of the network, for messages; its class by default.

    Raises:
        UserError: the network fails, returns no logits of these classes, or there is no image.
    """
    was_training = model.training
    model.eval()
    device, name = device_of(model), name or type(model).__name__
    correct = correct5 = total = ties = 0
    loss = 0.0
    for images, labels in batches:
        images = in_order(images.to(device), memory_order(channels_last))
        with failures_of(f"{name} cannot be evaluated"):
            logits = logits_of(model(images), len(images), name)
        if int(labels.max()) >= logits.shape[1]:
            raise UserError(f"{name} knows {logits.shape[1]} classes, but the data has more")
        labels = labels.to(device)
        best = logits.max(dim=1, keepdim=True).values
        ties += int(((logits == best).sum(dim=1) > 1).sum())
        rank = _rank(logits, labels)
        correct += int((rank == 0).sum())
        correct5 += int((rank < 5).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        total += len(labels)
    model.train(was_training)
    hits, hits5, images, tied, loss = distributed.sums(correct, correct5, total, ties, loss)
    if not images:
        raise UserError(f"{name} cannot be evaluated: there is no image that is not damaged")
    return Accuracy(int(hits), int(hits5), int(images), int(tied), loss / images)


def _rank(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the label's: larger logits, or equal and lower index."""
    own = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (index < labels[:, None]))
    # A NaN logit is never "larger": count it as wrong.
    wrong = torch.isnan(logits).any(dim=1)
    return before.sum(dim=1) + wrong * logits.shape[1]
