"""The optimiser, its learning rate, and the allocator that training wants."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import nn

from micronet import quantize
from micronet.config import TrainSection


def make_optimizer(model: nn.Module, section: TrainSection) -> torch.optim.SGD:
    """Return SGD with momentum over all parameters; learned steps have no weight decay."""
    steps = {id(step) for step in quantize.learned_steps(model).values()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if id(parameter) not in steps],
        lr=section.lr,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        nesterov=section.nesterov,
    )
    add_steps(optimizer, model)
    return optimizer


def add_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Let an optimiser train a model's learned steps, which it must not have yet.

    They have no weight decay, which would pull a step towards zero whatever the loss says.
    """
    if steps := list(quantize.learned_steps(model).values()):
        optimizer.add_param_group({"params": steps, "weight_decay": 0.0})


def learning_rate(section: TrainSection, progress: float) -> float:
    """Return the rate at ``progress`` epochs since the start.

    Cosine falls to 0 over the epochs after the warm-up (Loshchilov & Hutter 2017, no restarts);
    exponential multiplies by ``gamma`` at each epoch after ``lr_start_epoch``. The warm-up rises
    linearly from a tenth of the rate.
    """
    if progress < section.warmup_epochs:
        return section.lr * (0.1 + 0.9 * progress / section.warmup_epochs)
    if section.lr_schedule == "exponential":
        return section.lr * section.gamma ** max(0, int(progress) - section.lr_start_epoch)
    length = max(section.epochs - section.warmup_epochs, 1)
    share = (progress - section.warmup_epochs) / length
    return section.lr * 0.5 * (1.0 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def keep_freed_memory_mapped() -> None:
    """Tell glibc to reuse freed activations instead of unmapping them; elsewhere do nothing.

    By default glibc maps every large tensor anew and the kernel zeroes its pages at each step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def device() -> torch.device:
    """Return the first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(model: nn.Module) -> nn.Module:
    """Move a network to ``device()``, its convolutions in channels_last order, and return it."""
    return model.to(device=device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
