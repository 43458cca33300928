"""What a compression knows that the network's own state does not hold, as plain data and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from micronet.pruning.prune import Masks
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class CompressionState:
    """Where a compression is.

    Attributes:
        bits: precision by layer; empty in float.
        masks: of pruned weights.
        average: of the weights, by name.
        oscillations: what is known of those of weights; empty where none are followed.
        epoch: that was begun last.
        num_updates: steps of the optimizer so far.
        steps_in_epoch: those of the epoch.
        curvature: squared gradients, by layer.
    """

    bits: dict[str, LayerBits]
    masks: Masks
    average: dict[str, Tensor]
    oscillations: dict[str, Tensor]
    epoch: int
    num_updates: int
    steps_in_epoch: int
    curvature: dict[str, Tensor] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return tensors of its own and plain data, which ``read`` takes."""
        return {
            "bits": quantize.bits_to_dict(self.bits),
            "masks": {name: bits.clone() for name, bits in self.masks.bits.items()},
            "average": {name: tensor.clone() for name, tensor in self.average.items()},
            "oscillations": {name: tensor.clone() for name, tensor in self.oscillations.items()},
            "epoch": self.epoch,
            "num_updates": self.num_updates,
            "steps_in_epoch": self.steps_in_epoch,
            "curvature": {name: tensor.clone() for name, tensor in self.curvature.items()},
        }

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> CompressionState:
        """Read what ``to_dict`` returned.

        Raises:
            UserError: it is something else.
        """
        try:
            return cls(
                quantize.bits_from_dict(plain["bits"]),
                Masks(plain["masks"]),
                dict(plain["average"]),
                # States of earlier versions have none.
                dict(plain.get("oscillations", {})),
                int(plain["epoch"]),
                int(plain["num_updates"]),
                int(plain["steps_in_epoch"]),
                # States of before there was such a criterion have none.
                dict(plain.get("curvature", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no state of a compression: {error!r}") from None
