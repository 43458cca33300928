"""The walk's records of poolings, as modules and as functions: how many elements windows read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from micronet.opcount_records import Pool


def pool_module(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> Pool:
    """Return the record of a pooling layer, whose tensors are (batch, channels, height, width)."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _pool(name, "average", inputs, output, _adaptive_reads(inputs, output))
    function = "maximum" if isinstance(module, nn.MaxPool2d) else "average"
    reads = output.numel() * _area(module.kernel_size)
    return _pool(name, function, inputs, output, reads)


def pool_function(
    name: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Pool:
    """Return the record of a pooling by a function of torch, by that function's name."""
    inputs = args[0] if args else kwargs["input"]
    if function == "mean":
        return _pool(name, "average", inputs, output, inputs.numel())
    if function == "adaptive_avg_pool2d":
        return _pool(name, "average", inputs, output, _adaptive_reads(inputs, output))
    kernel = args[1] if len(args) > 1 else kwargs["kernel_size"]
    kind = "maximum" if function == "max_pool2d" else "average"
    return _pool(name, kind, inputs, output, output.numel() * _area(kernel))


def _pool(name: str, function: str, inputs: Tensor, output: Tensor, reads: int) -> Pool:
    return Pool(name, function, inputs.numel(), output.numel(), reads)


def _area(kernel: Any) -> int:
    sides = kernel if isinstance(kernel, (tuple, list)) else (kernel, kernel)
    return int(sides[0]) * int(sides[-1])


def _adaptive_reads(inputs: Tensor, output: Tensor) -> int:
    """Return the elements that adaptive windows read: [i*h // n, ceil((i+1)*h / n)) for i < n."""
    planes = output.shape[:-2].numel()
    rows, columns = (
        sum(-(-(i + 1) * size // n) - i * size // n for i in range(n))
        for size, n in zip(inputs.shape[-2:], output.shape[-2:], strict=True)
    )
    return planes * rows * columns
