"""Several processes that train one network: who they are, and what they agree on.

``torchrun`` starts them and says so in the environment. Each has its share of every batch; after
each step all have the same weights, masks and ranges. The first one writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from micronet.utils.errors import UserError

# What the backends say when another process is gone; they have no error class of their own.
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


class LostProcess(Exception):
    """Another process of the run is gone, so this one cannot go on either."""


def rank() -> int:
    """Return which process this is, from 0."""
    return dist.get_rank() if is_several() else 0


def size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if is_several() else 1


def is_several() -> bool:
    """Whether more than this process trains."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def was_restarted() -> bool:
    """Whether torchrun starts these processes again after one of them failed."""
    return _restarts() > 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Meet the other processes that torchrun started, if it did; part from them at the end.

    Raises:
        LostProcess: inside, one of them is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _meet("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    except RuntimeError as error:
        if not says_lost(error):
            raise
        raise LostProcess(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost another one: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    finally:
        dist.destroy_process_group()


def says_lost(error: BaseException) -> bool:
    """Whether an error, where several processes train, says that another one is gone."""
    if not (is_several() and isinstance(error, RuntimeError)):
        return False
    return any(word in str(error).lower() for word in _LOST)


def _meet(backend: str) -> None:
    """Start the process group, apart from the one that an earlier attempt of torchrun left.

    Its store outlives a restart, with the addresses of processes that are gone.
    """
    store, number, world = next(dist.rendezvous("env://"))
    attempt = dist.PrefixStore(f"attempt {_restarts()}", store)
    dist.init_process_group(backend, store=attempt, rank=number, world_size=world)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def first_alone(act: Callable[[], None]) -> None:
    """Let the first process act while the others wait.

    Raises:
        UserError: it failed; all of them say so.
    """
    if not is_several():
        act()
        return
    answer: list[str | None] = [None]
    if is_first():
        try:
            act()
        except UserError as error:
            answer = [str(error)]
    dist.broadcast_object_list(answer)
    if answer[0] is not None:
        raise UserError(answer[0])


def all_reduce_range(extremes: Tensor) -> Tensor:
    """Return the lowest minimum and the highest maximum of all processes' ``extremes`` (2,)."""
    if not is_several():
        return extremes
    both = torch.stack((-extremes[0], extremes[1]))
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return torch.stack((-both[0], both[1]))


def mean(value: Tensor) -> Tensor:
    """Return the mean of all processes' ``value``."""
    if not is_several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / size()


def sum_of_all(values: Tensor) -> Tensor:
    """Return the sums of all processes' ``values``, which it may overwrite, on their device."""
    if is_several():
        dist.all_reduce(values)
    return values


def sums(*numbers: float) -> list[Any]:
    """Return the sums of all processes' numbers, exact for whole ones below 2**53."""
    if not is_several():
        return list(numbers)
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def highest(number: int) -> int:
    """Return the highest of all processes' numbers."""
    if not is_several():
        return number
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def wrap(model: nn.Module) -> nn.Module:
    """Return a module whose backward pass leaves the mean of all processes' gradients.

    It starts by giving all of them the first one's parameters and buffers.
    """
    if not is_several():
        return model
    # Ranges and synchronized statistics are equal by construction; see average_statistics.
    return DistributedDataParallel(model, broadcast_buffers=False)


def no_sync(wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Return the context of one micro-batch: gradients are all-reduced on the ``last`` only."""
    if last or not isinstance(wrapped, DistributedDataParallel):
        return contextlib.nullcontext()
    return wrapped.no_sync()


def average_statistics(model: nn.Module) -> None:
    """Let batch normalizations agree on the mean of their statistics.

    Where they are synchronized they have the same ones, whose mean they keep within rounding.
    """
    if not is_several():
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(mean(statistic))
