"""What the callbacks of all loops share: a recipe, and the compression that carries it out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from micronet.compression.compress import compress
from micronet.compression.compression import Compression
from micronet.recipe.reader import Recipe
from micronet.utils.errors import UserError


class RecipeCallback:
    """Holds a recipe, and the compression of a network while somebody else's loop trains it.

    Args:
        recipe: ``prune`` and ``quantize``; of ``train``, the average of weights and the rate of
            learned steps. The loss and the optimizer are the loop's own.
        mean: of the channels of pixels in [0, 1], where a layer is to read images; as in
            ``micronet.compress``.
        std: the standard deviation that goes with it.

    Attributes:
        compression: of the network; None before the first run.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.recipe, self._moments = recipe, (mean, std)
        self.compression: Compression | None = None
        # What ends with the run, and with the use of the average of weights.
        self._running = contextlib.ExitStack()
        self._averaged = contextlib.ExitStack()

    def _compress(self, model: Any) -> Compression:
        mean, std = self._moments
        return compress(model, self.recipe, mean=mean, std=std)

    def _known(self) -> Compression:
        if self.compression is None:
            raise UserError("this callback has not been set up by a Trainer yet")
        return self.compression
