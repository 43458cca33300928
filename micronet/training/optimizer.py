"""The optimizer, its learning rate, and the allocator that training wants."""

from __future__ import annotations

import contextlib
import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from micronet.compression.compression import Compression
from micronet.models import shared_layers
from micronet.models.shared_tensors import first_names
from micronet.recipe.schema import TrainSection
from micronet.training.eager_optimizers import eager
from micronet.training.joint_optimizer import JointOptimizer
from micronet.utils.errors import UserError

# What the optimizers of a recipe keep for a parameter, each some of it.
STATE = ("momentum_buffer", "step", "exp_avg", "exp_avg_sq", "square_avg")


def make_optimizer(compression: Compression, section: TrainSection) -> torch.optim.Optimizer:
    """Return the optimizer that a recipe means, over the groups of ``parameter_groups``.

    Where learned steps have another one, it takes the steps of both.
    """
    place, of_steps = device_of(compression.model), section.step_optimizer
    if of_steps in (None, section.optimizer):
        return _made(section.optimizer, compression.parameter_groups(), section, place)
    weights = _made(section.optimizer, compression.parameter_groups(steps=False), section, place)
    return JointOptimizer(weights, _made(of_steps, compression.step_groups(), section, place))


def _made(
    name: str, groups: list[dict[str, Any]], section: TrainSection, place: torch.device
) -> torch.optim.Optimizer:
    """Return an optimizer of torch by its name in a recipe."""
    # A captured step reads its rate on the device, as the fused form of SGD alone does.
    graphed = section.cuda_graph
    rate = torch.tensor(section.lr, device=place) if graphed else section.lr
    for group in groups:
        if graphed and "lr" in group:
            group["lr"] = torch.tensor(group["lr"], device=place)
    if name == "sgd":
        momentum, nesterov = section.momentum, section.nesterov
        return eager(torch.optim.SGD)(
            groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=graphed or None
        )
    # Their number of steps stays on the device, where a step that is not sound gives it back.
    capturable = place.type == "cuda"
    if name == "rmsprop":
        return eager(torch.optim.RMSprop)(
            groups,
            lr=rate,
            alpha=section.alpha,
            eps=section.eps,
            momentum=section.momentum,
            capturable=capturable,
        )
    kinds: dict[str, type[torch.optim.Adam]]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    first, second = section.betas
    return eager(kinds[name])(
        groups, lr=rate, betas=(first, second), eps=section.eps, capturable=capturable
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the tensors that an optimizer keeps for a parameter, by their names."""
    kept = optimizer.state.get(parameter, {})
    return {key: value for key, value in kept.items() if isinstance(value, torch.Tensor)}


def counted_on_device(optimizer: torch.optim.Optimizer) -> set[torch.Tensor]:
    """Return the parameters whose steps an optimizer counts where they are."""
    groups = (group for group in optimizer.param_groups if group.get("capturable"))
    return {parameter for group in groups for parameter in group["params"]}


@dataclass
class Plateau:
    """What a rate that waits for a plateau remembers: the best top-1, and how long ago it was."""

    scale: float = 1.0
    best: float = -1.0
    waited: int = 0

    def saw(self, section: TrainSection, top1: float) -> None:
        """Take in an epoch's validation top-1; after ``patience`` epochs without a rise, reduce.

        Source: torch's ReduceLROnPlateau, mode max, absolute threshold 0.
        """
        if section.lr_schedule != "plateau":
            return
        if top1 > self.best:
            self.best, self.waited = top1, 0
            return
        self.waited += 1
        if self.waited > section.patience:
            self.scale, self.waited = self.scale * section.gamma, 0


def learning_rate(section: TrainSection | None, progress: float) -> float:
    """Return the rate at ``progress`` epochs since the start, never below ``lr_min``.

    It rises linearly from a tenth over the warm-up. Then: cosine falls to ``lr_min`` at the end
    (Loshchilov & Hutter 2017, no restarts); polynomial falls to it as ``(1 - share)**power``;
    exponential multiplies by ``gamma`` at each epoch after ``lr_start_epoch``; step does so at
    each of ``milestones``; constant and plateau stay (see ``Plateau``). Cosine and polynomial
    stay at ``lr_min`` after the section's epochs.

    Raises:
        UserError: there is no section, or the progress is not from 0 on.
    """
    if section is None:
        raise UserError("the recipe says no learning rate: it has no train section")
    if not progress >= 0:
        raise UserError(f"a learning rate begins at progress 0, not {progress}")
    if progress < section.warmup_epochs:
        return section.lr * (0.1 + 0.9 * progress / section.warmup_epochs)
    length = max(section.epochs - section.warmup_epochs, 1)
    share = min((progress - section.warmup_epochs) / length, 1.0)
    return max(_SHAPES[section.lr_schedule](section, progress, share), section.lr_min)


def _cosine(section: TrainSection, progress: float, share: float) -> float:
    span = section.lr - section.lr_min
    return section.lr_min + span * 0.5 * (1.0 + math.cos(math.pi * share))


def _exponential(section: TrainSection, progress: float, share: float) -> float:
    return section.lr * section.gamma ** max(0, int(progress) - section.lr_start_epoch)


def _step(section: TrainSection, progress: float, share: float) -> float:
    passed = sum(progress >= milestone for milestone in section.milestones)
    return section.lr * section.gamma**passed


def _polynomial(section: TrainSection, progress: float, share: float) -> float:
    return section.lr_min + (section.lr - section.lr_min) * (1.0 - share) ** section.power


def _constant(section: TrainSection, progress: float, share: float) -> float:
    return section.lr


_SHAPES = {
    "cosine": _cosine,
    "exponential": _exponential,
    "step": _step,
    "polynomial": _polynomial,
    "constant": _constant,
    "plateau": _constant,
}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate, times its ``lr_scale`` where it has one."""
    for group in optimizer.param_groups:
        own = rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def clip_gradients(model: nn.Module, section: TrainSection) -> torch.Tensor | None:
    """Scale all gradients down to the recipe's norm where they exceed it.

    Returns:
        The norm before, a scalar; None where the recipe has none.
    """
    if not section.clip_grad_norm:
        return None
    return torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip_grad_norm)


def convolutions(deterministic: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context in which cuDNN's convolutions give the same bits each time, if asked for."""
    if not deterministic:
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def runs_ahead(device: torch.device) -> bool:
    """Whether the host goes on while a device works, and waits only for what it reads of it."""
    return device.type != "cpu"


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Return the context of the forward pass: bfloat16 where ``amp`` says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16")


def keep_freed_memory_mapped() -> None:
    """Tell glibc to reuse freed activations instead of unmapping them; elsewhere do nothing.

    By default glibc maps every large tensor anew and the kernel zeroes its pages at each step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def require_compiler() -> None:
    """Hold this machine to what torch.compile needs.

    Raises:
        UserError: there is no C++ compiler, in which it writes its kernels for the CPU.
    """
    if device().type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        raise UserError(
            "--compile needs a C++ compiler: put g++ on PATH, or name one in CXX"
        ) from None


def device() -> torch.device:
    """Return the first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return where a network's parameters are; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def to_device(model: nn.Module, *, channels_last: bool = True) -> nn.Module:
    """Move a network to ``device()``, its convolutions in the order asked for, and return it.

    Parameters that are one tensor stay one, though torch moves each by itself.

    Raises:
        UserError: two overlap in memory without being one.
    """
    shared_layers.check_memory(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first = first_names(parameters)
    model.to(device=device(), memory_format=memory_order(channels_last))  # type: ignore[call-overload]
    for name, parameter in parameters.items():
        if parameter is not parameters[first[name]]:
            parameter.data = parameters[first[name]].data
    return model


def memory_order(channels_last: bool) -> torch.memory_format:
    """Return the order in which images and weights of convolutions lie in memory."""
    return torch.channels_last if channels_last else torch.contiguous_format


def in_order(images: torch.Tensor, order: torch.memory_format) -> torch.Tensor:
    """Return images (N, C, H, W) in a memory order, by their strides too.

    What has another number of axes, as vectors do, has no such order and is returned as it is.
    Strides are open where a side is 1, and torch's operators choose the order of their results by
    them, so ``contiguous`` alone would leave images of one pixel in either.
    """
    if images.dim() != 4:
        return images
    images = images.contiguous(memory_format=order)
    wanted = torch.empty(images.shape, memory_format=order, device="meta").stride()
    return images if images.stride() == wanted else images.as_strided(images.shape, wanted)
