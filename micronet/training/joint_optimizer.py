"""Two optimizers of torch as one: that of the weights, and that of learned steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class JointOptimizer(torch.optim.Optimizer):
    """Takes the steps of two optimizers, each over its own groups; state and groups are shared.

    Whoever reads, saves, takes back or sets something of a parameter need not know which of the two
    has it. What is added belongs to the second.

    Args:
        weights: of the weights.
        steps: of what quantizers learn, none of which ``weights`` has.
    """

    def __init__(self, weights: torch.optim.Optimizer, steps: torch.optim.Optimizer) -> None:
        self._both = weights, steps
        super().__init__([*weights.param_groups, *steps.param_groups], {})
        # Each keeps to its own parameters, so that one mapping serves both.
        self.state = steps.state = weights.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, one of the second optimizer's unless it is one of theirs."""
        if any(param_group is own for each in self._both for own in each.param_groups):
            super().add_param_group(param_group)
            return
        _, steps = self._both
        steps.add_param_group(param_group)
        super().add_param_group(steps.param_groups[-1])

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step of each."""
        for each in self._both:
            each.step()
