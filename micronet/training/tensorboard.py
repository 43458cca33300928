"""TensorBoard events of a run: every number of its log, and what each layer looks like.

The x axis counts the run's optimizer steps from 1. The package tensorboard is asked for only here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from micronet.models import architectures
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantizers.learned import LearnedActivationQuantizer
from micronet.utils.errors import UserError

Scalars: TypeAlias = dict[str, float]

EVERY_STEPS = 20

# Of the log's keys, which not every recipe has; what is not named here is no curve.
_TAGS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_top1": "top1/train",
    "validation_top1": "top1/validation",
    "validation_top5": "top5/validation",
    "sparsity": "sparsity/convolutions and what is pruned",
    "weight_bits": "bits/weights",
    "input_bits": "bits/inputs",
    "oscillating": "oscillations/weights that oscillate",
    "frozen": "oscillations/weights that are frozen",
    "images_per_second": "speed/images per second",
    "seconds": "speed/seconds per epoch",
}


def require_package() -> None:
    """Ask for tensorboard before a run begins.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs a package: pip install 'micronet[tensorboard]'")


class Events:
    """Writes the events of one run into its folder ``tensorboard``.

    Args:
        folder: of the run.
        done: optimizer steps that a resumed run has behind it; events of later ones, which an
            earlier process left, are taken back.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        target = folder / "tensorboard"
        try:
            self._writer = SummaryWriter(str(target), purge_step=done + 1)
        except OSError as error:
            raise UserError(f"cannot write {str(target)!r}: {error.strerror}") from None

    def step(self, step: int, loss: float, rate: float) -> None:
        """Record a step of training, of every ``EVERY_STEPS`` one."""
        if step % EVERY_STEPS == 0:
            self._add({"step/loss": loss, "step/learning rate": rate}, step)

    def epoch(self, step: int, metrics: dict[str, Any], model: nn.Module) -> None:
        """Record an epoch that ended with ``step``: its log, and the layers of ``model``."""
        self._add({t: metrics[k] for k, t in _TAGS.items() if metrics.get(k) is not None}, step)
        self._add(layer_scalars(model), step)
        for name, layer in architectures.layers(model).items():
            weight = layer.weight.detach().float().cpu()
            # A histogram of what is not finite is an error; the loss says it already.
            if torch.isfinite(weight).all():
                self._writer.add_histogram(f"weights/{name}", weight, step)
        self._writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()

    def _add(self, scalars: Scalars, step: int) -> None:
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, step)


@torch.no_grad()
def layer_scalars(model: nn.Module) -> Scalars:
    """Return each layer's share of zeros, and the ends, and the step if learned, of each input."""
    found = {}
    for name, layer in architectures.layers(model).items():
        found[f"sparsity/{name}"] = float((layer.weight == 0).float().mean())
    for name, quantized in quantized_layers(model):
        quantizer = quantized.input_quantizer
        if quantizer is not None:
            found[f"input low/{name}"], found[f"input high/{name}"] = quantizer.ends()
        if isinstance(quantizer, LearnedActivationQuantizer):
            found[f"input step/{name}"] = float(quantizer.step_size.detach())
    return found
