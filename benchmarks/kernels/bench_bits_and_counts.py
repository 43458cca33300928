"""Masks and counts over all weights of the network: packing, compaction, numbers of non-zeros."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import micronet_kernels as kernels
from benchmarks.harness import shapes
from benchmarks.harness.methods import Group, compare
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step

KEPT = 0.4


@dataclass(frozen=True)
class Inputs:
    """Weights, which of them are kept, that as packed bits, and the kept ones."""

    w: Tensor
    flags: Tensor
    bits: Tensor
    kept: Tensor


def inputs(elements: int, device: str) -> Inputs:
    """Return random weights of which KEPT are kept."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(elements, generator=generator).to(device)
    flags = (torch.rand(elements, generator=generator) < KEPT).to(device)
    return Inputs(w, flags, kernels.pack_bits(flags), w[flags])


def _by_numpy(flags: Tensor) -> Step:
    array = flags.cpu().numpy()
    return lambda: np.packbits(array, bitorder="little")


def _by_scatter(i: Inputs) -> Step:
    return lambda: torch.zeros_like(i.w).masked_scatter_(i.flags, i.kept)


# Operator, bytes an element, our step, what a user would call, and that step.
OPERATORS: list[tuple[str, float, Callable, str, Callable]] = [
    (
        "pack_bits",
        1 + 1 / 8,
        lambda i: lambda: kernels.pack_bits(i.flags),
        "numpy.packbits",
        lambda i: _by_numpy(i.flags),
    ),
    (
        "compact_by_bits",
        4 + 4 * KEPT + 1 / 8,
        lambda i: lambda: kernels.compact_by_bits(i.w, i.bits, i.kept.numel()),
        "torch.masked_select",
        lambda i: lambda: torch.masked_select(i.w, i.flags),
    ),
    (
        "expand_by_bits",
        4 + 4 * KEPT + 1 / 8,
        lambda i: lambda: kernels.expand_by_bits(i.kept, i.bits, i.w.numel()),
        "zeros_like, masked_scatter_",
        _by_scatter,
    ),
    (
        "count_nonzero",
        4,
        lambda i: lambda: kernels.count_nonzero(i.w),
        "torch.count_nonzero",
        lambda i: lambda: torch.count_nonzero(i.w),
    ),
]


def groups(device: str = "cpu") -> list[Group]:
    """Return all operators as one group over as many weights as the network has."""
    elements = sum(math.prod(shape) for shape in shapes.weights())
    shared = functools.cache(functools.partial(inputs, elements, device))

    def made(step: Callable[[Inputs], Step]) -> Callable[[], Step]:
        return lambda: step(shared())

    methods = []
    for op, traffic, make, called, peer in OPERATORS:
        on_device = device == "cpu" or not called.startswith("numpy.")
        peers = {called: made(peer)} if on_device else {}
        methods += compare(op, made(make), peers, label=op, traffic=traffic, device=device)
    return [Group(f"all weights, {elements:,}", elements, methods, device)]


@each_method(groups())
def bench_bits_and_counts(benchmark, group, method):
    bench(benchmark, group, method)
