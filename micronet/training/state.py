"""What a training run is at one moment, and how it becomes tensors and JSON and back.

Random states are not part of it: every random choice is a function of the seed and the position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from micronet.models.shared_layers import kept_names
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.runs import checkpoint
from micronet.training.ema import ModelEma
from micronet.training.optimizer import Plateau
from micronet.utils.errors import UserError


@dataclass
class Progress:
    """How far the epoch that is being trained is, and what all processes' batches gave so far."""

    step: int = 0
    correct: int = 0
    total: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    def add(self, correct: float, total: float, loss_sum: float, seconds: float) -> None:
        """Take in a step's batch; ``seconds`` are those of the epoch until now."""
        self.correct += int(correct)
        self.total += int(total)
        self.loss_sum += loss_sum
        self.seconds = seconds


@dataclass
class State:
    """Everything that a checkpoint keeps; and ``compiled``, the network as training steps call it.

    Evaluation calls ``model`` itself, whose arithmetic is that of every later evaluation.
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    masks: prune.Masks
    bits: dict[str, LayerBits] = field(default_factory=dict)
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    plateau: Plateau = field(default_factory=Plateau)
    average: ModelEma = field(default_factory=ModelEma)
    best_top1: float = -1.0
    best_epoch: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    compiled: nn.Module | None = None


def pack(state: State, meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors and header; ``meta`` is what it says of network and data.

    A tensor that the network has under several names is kept once.
    """
    network = state.model.state_dict()
    kept = kept_names(state.model, network)
    tensors = {f"model/{key}": value for key, value in network.items() if key in kept}
    tensors.update({f"mask/{key}": value for key, value in state.masks.bits.items()})
    for name, parameter in state.model.named_parameters():
        momentum = state.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum/{name}"] = momentum
    tensors.update({f"average/{key}": value for key, value in state.average.tensors.items()})
    header = {
        **meta,
        "bits": quantize.bits_to_dict(state.bits),
        "epoch": state.epoch,
        "progress": dataclasses.asdict(state.progress),
        "plateau": dataclasses.asdict(state.plateau),
        "best_top1": state.best_top1,
        "best_epoch": state.best_epoch,
        "metrics": state.metrics,
    }
    return tensors, header


def unpack(state: State, found: checkpoint.Checkpoint) -> State:
    """Continue from a checkpoint whose model tensors and masks ``state`` already has.

    Raises:
        UserError: the checkpoint holds a network, but no position in a training run.
    """
    meta = found.meta
    try:
        state.epoch = meta["epoch"]
        state.progress = Progress(**meta["progress"])
        state.plateau = Plateau(**meta["plateau"])
        state.best_top1, state.best_epoch = meta["best_top1"], meta["best_epoch"]
        state.metrics = meta["metrics"]
        momentum = found.group("momentum")
        for name, parameter in state.model.named_parameters():
            if name in momentum:
                # Same strides as the parameter, or the next step would round in another order.
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                state.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        state.average.load(state.model, found.group("average"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {str(found.path)!r} cannot be continued: {' '.join(str(error).split())}"
        ) from None
    return state
