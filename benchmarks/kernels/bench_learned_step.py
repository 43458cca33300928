"""Rounding to a learned step, forward and backward, beside torch's learnable fake quantization."""

import functools

import torch
from torch import Tensor

import micronet_kernels as kernels
from benchmarks.harness import shapes
from benchmarks.harness.methods import BOTH, Group, compare
from benchmarks.harness.ours import LEVELS
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step

# Bytes an element: x and y forward; x, the gradient and the gradient to x backward.
TRAFFIC = 8 + 12
# One of the largest weights of the network.
WEIGHT = (1280, 320, 1, 1)
TORCH_TENSOR = "torch._fake_quantize_learnable_per_tensor_affine"
TORCH_CHANNEL = "torch._fake_quantize_learnable_per_channel_affine"


def _step(shape: shapes.Shape, channels: int, device: str, by_torch: bool) -> Step:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    step = torch.full((channels,), 0.25, device=device).requires_grad_()
    zero = torch.full((channels,), -8.0, device=device)
    x.requires_grad_()

    def rounded() -> Tensor:
        if not by_torch:
            return kernels.fake_quant_learned_step(x, step, zero, LEVELS)
        # torch's zero point is the code of 0, ours the integer of the lowest level.
        top = LEVELS - 1
        if channels == 1:
            return torch._fake_quantize_learnable_per_tensor_affine(x, step, -zero, 0, top)
        return torch._fake_quantize_learnable_per_channel_affine(x, step, -zero, 0, 0, top)

    def both() -> None:
        rounded().backward(grad)
        x.grad = step.grad = None

    return both


def _group(shape: shapes.Shape, channels: int, device: str) -> Group:
    make = functools.partial(_step, shape, channels, device)
    methods = compare(
        "fake_quant_learned_step",
        functools.partial(make, by_torch=False),
        {TORCH_TENSOR if channels == 1 else TORCH_CHANNEL: functools.partial(make, by_torch=True)},
        label="one step" if channels == 1 else "a step a channel",
        traffic=TRAFFIC,
        device=device,
        direction=BOTH,
    )
    return Group(shapes.text(shape), torch.Size(shape).numel(), methods, device)


def groups(device: str = "cpu") -> list[Group]:
    """Return activations with one step each, and a weight with a step for each channel."""
    activations = [_group(shape, 1, device) for shape in shapes.TIMED]
    return [*activations, _group(WEIGHT, WEIGHT[0], device)]


@each_method(groups())
def bench_learned_step(benchmark, group, method):
    bench(benchmark, group, method)
