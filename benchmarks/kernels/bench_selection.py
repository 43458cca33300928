"""Which weights to prune: our selection beside torch's, on the network's weights."""

import functools
import math

import torch

import micronet_kernels as kernels
from benchmarks.harness import shapes
from benchmarks.harness.methods import Group, compare
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step

PRUNED = 0.6
# Bytes an element: the weight, and one bit of the mask.
TRAFFIC = 4 + 1 / 8


def _weights(elements: int, device: str) -> torch.Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(0)).to(device)


def _ours(elements: int, device: str) -> Step:
    w, k = _weights(elements, device), int(PRUNED * elements)
    return lambda: kernels.smallest_magnitude_mask(w, k)


def _kthvalue(elements: int, device: str) -> Step:
    w, k = _weights(elements, device), int(PRUNED * elements)

    def mask() -> torch.Tensor:
        magnitudes = w.abs()
        return magnitudes > torch.kthvalue(magnitudes, k).values

    return mask


def _topk(elements: int, device: str) -> Step:
    w, k = _weights(elements, device), int(PRUNED * elements)

    def mask() -> torch.Tensor:
        magnitudes = w.abs()
        return magnitudes > torch.topk(magnitudes, k, largest=False).values[-1]

    return mask


def groups(device: str = "cpu") -> list[Group]:
    """Return the largest weight of EfficientNet-B1, and all of its weights as one."""
    sizes = [math.prod(shape) for shape in shapes.weights()]
    found = []
    for shape, elements in (("largest weight", max(sizes)), ("all weights", sum(sizes))):
        peers = {"abs, torch.kthvalue, gt": _kthvalue, "abs, torch.topk, gt": _topk}
        methods = compare(
            "smallest_magnitude_mask",
            functools.partial(_ours, elements, device),
            {op: functools.partial(make, elements, device) for op, make in peers.items()},
            label="60 % pruned",
            traffic=TRAFFIC,
            device=device,
        )
        found.append(Group(f"{shape}, {elements:,}", elements, methods, device))
    return found


@each_method(groups())
def bench_selection(benchmark, group, method):
    bench(benchmark, group, method)
