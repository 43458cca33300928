"""The methods that fake-quantize all weights of a network, about 60 % of them pruned."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import micronet_kernels as kernels
from benchmarks.harness import ours, peers
from benchmarks.harness.methods import BOTH, FORWARD, Group, Method
from benchmarks.harness.shapes import Shape
from benchmarks.harness.timing import Step

TOGETHER, EACH = "all together", "layer by layer"
TORCH_GIVEN, TORCH_FOUND = "torch, range given", "torch, range found"

PRUNED = 0.6
# Bytes an element: w and its bit are read, the rounded weight is written; backward likewise.
TRAFFIC = {FORWARD: 8 + 1 / 8, BOTH: 16 + 2 / 8}


@dataclass(frozen=True)
class Inputs:
    """Weights, masks packed and as floats, incoming gradients; one of each for a layer."""

    weights: list[Tensor]
    bits: list[Tensor]
    floats: list[Tensor]
    grads: list[Tensor]


@functools.lru_cache(maxsize=1)
def inputs(shapes: tuple[Shape, ...], device: str) -> Inputs:
    """Return random weights of the given shapes with what belongs to them."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(device) for shape in shapes]

    kept = [torch.rand(shape, generator=generator) >= PRUNED for shape in shapes]
    return Inputs(
        weights=[w.requires_grad_() for w in draw()],
        bits=[kernels.pack_bits(mask).to(device) for mask in kept],
        floats=[mask.float().to(device) for mask in kept],
        grads=draw(),
    )


def _together(given: Inputs) -> peers.WeightsFunction:
    levels = [ours.LEVELS] * len(given.weights)
    return lambda weights: kernels.fake_quant_weights(weights, levels, given.bits)


def _each(given: Inputs) -> peers.WeightsFunction:
    return lambda weights: [
        kernels.fake_quant_per_channel(w, ours.LEVELS, bits)
        for w, bits in zip(weights, given.bits, strict=True)
    ]


def _step(function: peers.WeightsFunction, given: Inputs, direction: str) -> Step:
    def forward() -> None:
        function(given.weights)

    def both() -> None:
        torch.autograd.backward(function(given.weights), given.grads)
        for w in given.weights:
            w.grad = None

    return forward if direction == FORWARD else both


def methods(shapes: Sequence[Shape], device: str, backends: Sequence[str]) -> list[Method]:
    """Return ours on each backend, together and in a loop, then torch's loops."""
    shapes = tuple(shapes)
    found = []

    def add(label: str, op: str, backend: str, make: Callable[[Inputs], object]) -> None:
        for direction, least in TRAFFIC.items():

            def prepare(direction: str = direction) -> Step:
                given = inputs(shapes, device)
                step = _step(make(given), given, direction)
                return step if backend == "torch" else ours.on(backend, step)

            against = TOGETHER
            found.append(Method(label, op, direction, "float32", backend, least, prepare, against))

    for backend in backends:
        add(TOGETHER, "fake_quant_weights", backend, _together)
        add(EACH, "fake_quant_per_channel", backend, _each)
    rounding = "torch.fake_quantize_per_channel_affine"
    add(
        TORCH_GIVEN,
        f"mul, {rounding}",
        "torch",
        lambda given: peers.weights_given(given.weights, given.floats),
    )
    add(
        TORCH_FOUND,
        f"mul, aminmax, {rounding}",
        "torch",
        lambda given: peers.weights_found(given.floats),
    )
    return found


def group(shapes: Sequence[Shape], device: str, backends: Sequence[str]) -> Group:
    """Return the methods as a group over all the weights at once."""
    elements = sum(map(math.prod, shapes))
    name = f"{len(shapes)} weights, {elements:,} in all"
    return Group(name, elements, methods(shapes, device, backends), device)
