"""What the operators on accumulators and their values refuse."""

import torch
from torch import Tensor

from .checks import MOST_CODE_LEVELS, check, check_same_device
from .scheme import Function, check_quantizer

_FUNCTIONS = frozenset(map(int, Function))
ACCUMULATORS = (torch.int16, torch.int32, torch.float32)


def channel_moments(acc: Tensor) -> None:
    """Check of `channel_moments`."""
    if acc.dtype not in ACCUMULATORS:
        raise TypeError(f"acc is {acc.dtype}, but must be int16, int32 or float32")
    _check_images("acc", acc)


def _check_images(name: str, x: Tensor) -> None:
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"{name} has shape {list(x.shape)}, but must have [N, C, H, W], none 0")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"{name} has strides {list(x.stride())}, but must be channels last")


def _check_like(acc: Tensor, name: str, other: Tensor, shape: tuple[int, ...]) -> None:
    check(name, other, torch.float32, shape)
    check_same_device(name, other, acc)


def _check_optional(acc: Tensor, name: str, other: Tensor, shape: tuple[int, ...]) -> None:
    _check_like(acc, name, other, shape if other.numel() else (0,))


def affine(acc: Tensor, scale: Tensor, shift: Tensor, function: int) -> None:
    """Check of what all operators on values share, `block_means` first."""
    channel_moments(acc)
    channels = (acc.shape[1],)
    _check_like(acc, "scale", scale, channels)
    _check_like(acc, "shift", shift, channels)
    if function not in _FUNCTIONS:
        raise ValueError(f"function is {function}, which is none of {list(map(int, Function))}")


def values(acc: Tensor, scale: Tensor, shift: Tensor, function: int, gate: Tensor) -> None:
    """Check of `block_values` and `block_extremes`; an empty gate is none."""
    affine(acc, scale, shift, function)
    _check_optional(acc, "gate", gate, acc.shape[:2])


def codes(
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    gate: Tensor,
    range: Tensor,
    levels: int,
) -> None:
    """Check of `block_codes`."""
    values(acc, scale, shift, function, gate)
    _check_like(acc, "range", range, (2,))
    check_quantizer(levels, 0)
    if levels > MOST_CODE_LEVELS:
        raise ValueError(f"levels is {levels}, but a code of four bits has {MOST_CODE_LEVELS}")


def gradient_sums(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    range: Tensor,
    mean_grad: Tensor,
) -> None:
    """Check of `block_gradient_sums`; an empty range lets everything pass, no mean_grad adds 0."""
    affine(acc, scale, shift, function)
    _check_images("grad", grad)
    _check_like(acc, "grad", grad, acc.shape)
    _check_optional(acc, "range", range, (2,))
    _check_optional(acc, "mean_grad", mean_grad, acc.shape[:2])


def gradient(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    range: Tensor,
    mean_grad: Tensor,
    k: Tensor,
) -> None:
    """Check of `block_gradient`."""
    gradient_sums(grad, acc, scale, shift, function, range, mean_grad)
    _check_like(acc, "k", k, (3, acc.shape[1]))


def gate_gradient(
    grad: Tensor,
    acc: Tensor,
    scale: Tensor,
    shift: Tensor,
    function: int,
    gate: Tensor,
    range: Tensor,
) -> None:
    """Check of `block_gate_gradient`."""
    gradient_sums(grad, acc, scale, shift, function, range, gate.new_empty(0))
    _check_like(acc, "gate", gate, acc.shape[:2])
