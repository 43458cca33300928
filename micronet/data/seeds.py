"""Streams of random numbers, each a function of its key alone."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """Return a generator of its own stream for each ``key`` of non-negative numbers."""
    return torch.Generator().manual_seed(mix(*key))


def mix(*key: int) -> int:
    """Return a seed that differs between keys of non-negative numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
