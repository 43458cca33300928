"""What is noted of an evaluation: its steps, and which tensor is whose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from micronet.utils.errors import UserError


@dataclass
class Step:
    """Something that was computed.

    Attributes:
        kind: ``layer``, ``norm`` or a kind of the format.
        inputs: steps whose results it read.
        shape: of one image's result.
        facts: what else is known of it; of a kind of the format, its keys.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)


class Notes:
    """The steps so far, and the tensors that came of them.

    Args:
        images: that the network is called with.
        name: of the network, for messages.
    """

    def __init__(self, images: Tensor, name: str) -> None:
        self._name = name
        # Tensors are held, so that no other one takes an identity.
        self._results: dict[int, tuple[Tensor, int]] = {}
        self.steps: list[Step] = []
        self.add("input", [], images)

    def refusal(self, reason: str) -> UserError:
        """Return the error that says why the network cannot be packed."""
        return UserError(f"{self._name} cannot be exported: {reason}")

    def add(self, kind: str, inputs: list[Tensor], result: Tensor, **facts: Any) -> None:
        """Note a step, and the tensor that it gave, which may be one of its inputs.

        Raises:
            UserError: an input does not come from the image.
        """
        read = tuple(self.require(x, kind) for x in inputs)
        self.steps.append(Step(kind, read, tuple(result.shape[1:]), facts))
        self._results[id(result)] = result, len(self.steps) - 1

    def alias(self, result: Tensor, source: Tensor) -> None:
        """Note that a tensor is another one again."""
        self._results[id(result)] = result, self.require(source, "a copy")

    def follows(self, x: Any) -> bool:
        """Whether a tensor comes from the image."""
        return id(x) in self._results

    def require(self, x: Any, reader: str) -> int:
        """Return the step that a tensor is of.

        Raises:
            UserError: it comes from something that was not followed.
        """
        if not self.follows(x):
            raise self.refusal(f"{reader} reads what is made by nothing that could be followed")
        return self._results[id(x)][1]
