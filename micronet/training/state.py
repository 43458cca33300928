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

from micronet.compression.compression import Compression
from micronet.models.shared_layers import kept_names
from micronet.quantization import quantize
from micronet.runs import checkpoint
from micronet.training.optimizer import STATE, Plateau, counted_on_device, optimizer_tensors
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

    compression: Compression
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    plateau: Plateau = field(default_factory=Plateau)
    best_top1: float = -1.0
    best_epoch: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    compiled: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.compression.model


def pack(state: State, meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors and header; ``meta`` is what it says of network and data.

    A tensor that the network has under several names is kept once.
    """
    network = state.model.state_dict()
    kept = kept_names(state.model, network)
    tensors = {f"model/{key}": value for key, value in network.items() if key in kept}
    tensors.update({f"mask/{key}": value for key, value in state.compression.masks.bits.items()})
    for name, parameter in state.model.named_parameters():
        for key, tensor in optimizer_tensors(state.optimizer, parameter).items():
            tensors[f"{_group_of(key)}/{name}"] = tensor
    average = state.compression.average.tensors
    tensors.update({f"average/{k}": v for k, v in average.items()})
    curvature = state.compression.curvature.tensors
    tensors.update({f"curvature/{k}": v for k, v in curvature.items()})
    followed = state.compression.oscillations.state()
    tensors.update({f"oscillation/{k}": v for k, v in followed.items()})
    header = {
        **meta,
        "bits": quantize.bits_to_dict(state.compression.bits),
        "epoch": state.epoch,
        "progress": dataclasses.asdict(state.progress),
        "plateau": dataclasses.asdict(state.plateau),
        "best_top1": state.best_top1,
        "best_epoch": state.best_epoch,
        "metrics": state.metrics,
    }
    return tensors, header


def _group_of(key: str) -> str:
    """Return how a checkpoint calls a kind of tensor that an optimizer keeps."""
    return "momentum" if key == "momentum_buffer" else f"optimizer.{key}"


def _continue_with(state: State, key: str, kept: Mapping[str, Tensor]) -> None:
    """Give the optimizer what a checkpoint kept of it."""
    on_device = counted_on_device(state.optimizer)
    for name, parameter in state.model.named_parameters():
        if name not in kept:
            continue
        tensor = kept[name]
        if tensor.dim():
            # Same strides as the parameter, or the next step would round in another order.
            tensor = torch.empty_like(parameter).copy_(tensor).detach()
        elif parameter in on_device:
            tensor = tensor.to(parameter.device)
        state.optimizer.state[parameter][key] = tensor


def unpack(state: State, found: checkpoint.Checkpoint) -> State:
    """Continue from a checkpoint whose model tensors and masks ``state`` already has.

    Raises:
        UserError: the checkpoint holds a network, but no position in a training run.
    """
    meta = found.meta
    try:
        state.epoch = meta["epoch"]
        state.progress = Progress(**meta["progress"])
        # What is to be begun next, unless the checkpoint is from within an epoch.
        state.compression.epoch = state.epoch if state.progress.step else state.epoch - 1
        state.plateau = Plateau(**meta["plateau"])
        state.best_top1, state.best_epoch = meta["best_top1"], meta["best_epoch"]
        state.metrics = meta["metrics"]
        for key in STATE:
            _continue_with(state, key, found.group(_group_of(key)))
        state.compression.average.load(state.model, found.group("average"))
        state.compression.curvature.load(state.model, found.group("curvature"))
        followed = found.group("oscillation")
        state.compression.oscillations.load(state.model, followed, state.compression.epoch)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {str(found.path)!r} cannot be continued: {' '.join(str(error).split())}"
        ) from None
    return state
