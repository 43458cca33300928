"""Which images of a data set are held out."""

from __future__ import annotations

import torch
from torch import Tensor

from micronet.data.seeds import generator

# The split is the data's, not the run's: a network and its teacher, or two seeds, share it.
_SPLIT_SEED = 2019


def stratified_split(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split the indices of ``labels`` (N,) into kept and held-out ones, each in order.

    Every class gives ``share`` of its images, rounded, but at least one and never its last.
    """
    random = generator(_SPLIT_SEED)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=random)[:count]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]
