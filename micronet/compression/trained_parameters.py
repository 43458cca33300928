"""What an optimizer trains of a network that is compressed, and who trains its learned steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from micronet.compression import parameters
from micronet.recipe.reader import TrainSection
from micronet.utils import distributed
from micronet.utils.errors import UserError


class TrainedParameters:
    """Knows the groups of an optimizer, and whether one has the learned steps.

    Attributes:
        model: the network, as it is now.
    """

    def __init__(self, model: nn.Module, train: TrainSection | None) -> None:
        self.model, self._train = model, train
        self._expect_steps()

    def _expect_steps(self) -> None:
        """Note that learned steps may have come, which no optimizer has yet."""
        self._steps_are_trained = not parameters.learned_by_quantizers(self.model)

    def _require_steps(self) -> None:
        """Hold learned steps to being trained by an optimizer."""
        if not self._steps_are_trained:
            raise UserError(
                "no optimizer trains the network's learned steps: give begin_epoch the optimizer, "
                "or make it of parameter_groups() after begin_epoch"
            )

    def train_steps(self, optimizer: torch.optim.Optimizer, schedulers: Iterable[Any] = ()) -> None:
        """Let an optimizer train the learned steps, in a group that does not decay.

        For one that was not made of ``parameter_groups``: before its own state is loaded.

        Args:
            optimizer: of torch.
            schedulers: of its learning rates; the new group's goes as the last one's, in proportion
                where the recipe says ``step_lr``.
        """
        options = parameters.step_options(self._train)
        parameters.give_steps(self.model, optimizer, schedulers, options)
        self._steps_are_trained = True

    def parameter_groups(
        self,
        weight_decay: float | None = None,
        *,
        decay_vectors: bool | None = None,
        steps: bool = True,
    ) -> list[dict[str, Any]]:
        """Return the network's parameters in groups, for any optimizer of torch.

        Learned steps come last, never decay, and have the recipe's ``step_lr`` if it says one.

        Args:
            weight_decay: of the weights; by default the recipe's, 0 without a ``train`` section.
            decay_vectors: whether biases and the parameters of normalization decay too; by default
                as the recipe says, and not without a ``train`` section.
            steps: whether learned steps are among them; else make another optimizer of
                ``step_groups``.
        """
        train = self._train or TrainSection(decay_vectors=False)
        decay = train.weight_decay if weight_decay is None else weight_decay
        vectors = train.decay_vectors if decay_vectors is None else decay_vectors
        groups = parameters.weight_groups(self.model, decay, decay_vectors=vectors)
        if steps:
            groups += [group for group in self.step_groups() if group["params"]]
        return groups

    def step_groups(self) -> list[dict[str, Any]]:
        """Return the learned steps as one group, for an optimizer of their own.

        It never decays, and has the recipe's ``step_lr`` if it says one. Where layers are quantized
        later it is empty until ``begin_epoch`` is given that optimizer.
        """
        self._steps_are_trained = True
        return [parameters.step_group(self.model, parameters.step_options(self._train))]

    @torch.no_grad()
    def _agree_on_steps(self) -> None:
        """Average learned steps over processes.

        What wraps the network may not know of them: they may have come after it. Where it does,
        they agree already.
        """
        steps = parameters.learned_by_quantizers(self.model)
        if steps:
            means = distributed.mean(torch.cat([step.detach() for step in steps]))
            for step, mean in zip(steps, means.split([len(s) for s in steps]), strict=True):
                step.copy_(mean)
