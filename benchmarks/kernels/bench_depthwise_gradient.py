"""Both gradients of the network's depthwise convolutions of codes on the CPU, beside torch's."""

import functools

import torch

from benchmarks.harness import shapes
from benchmarks.harness.methods import Group, Method, compare
from benchmarks.harness.ours import HI, LEVELS, LO
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step
from benchmarks.qat import layers
from benchmarks.qat.sites import Site
from micronet_kernels import ConvCall
from micronet_kernels.lazy.convolution_gradient import StoredImages, depthwise, torchs

OP = torch.ops.micronet
Operands = tuple[torch.Tensor, StoredImages, torch.Tensor, ConvCall, tuple[bool, bool]]


def _operands(site: Site) -> Operands:
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(size, generator=generator).contiguous(memory_format=torch.channels_last)
        for size in (site.input_size, site.output_size)
    )
    ends = torch.tensor([LO, HI])
    codes, _, _ = OP.quantize_per_tensor(x, ends, LEVELS, 0)

    def decode(codes: torch.Tensor, numel: int, dtype: torch.dtype) -> torch.Tensor:
        return OP.dequantize_per_tensor(codes, ends, numel, LEVELS, 0, dtype)

    call = ConvCall(LEVELS, LEVELS, site.stride, site.padding, (1, 1), site.groups)
    w = torch.randn(site.weight_size, generator=generator)
    return grad, StoredImages(codes, LEVELS, x.shape, decode), w, call, (True, True)


def _ours(site: Site) -> Step:
    operands = _operands(site)
    return lambda: depthwise(*operands)


def _torch(site: Site) -> Step:
    """The values of the codes are made each time, as a training step has to."""
    grad, x, w, call, wanted = _operands(site)
    return lambda: torchs(grad, x.values(grad.dtype), w, call, wanted)


def _methods(site: Site) -> list[Method]:
    inputs, outputs = (torch.Size(size).numel() for size in (site.input_size, site.output_size))
    found = compare(
        "depthwise_gradient",
        functools.partial(_ours, site),
        {"decode, convolution_backward": functools.partial(_torch, site)},
        label="both gradients",
        # Of each input half a byte of code and a float written, of each output a float read.
        traffic=(4.5 * inputs + 4 * outputs) / inputs,
        device="cpu",
    )
    # The specification takes seconds.
    return [method for method in found if method.backend != "reference"]


def groups(device: str = "cpu") -> list[Group]:
    """Return a group for each depthwise convolution of EfficientNet-B1; none on other devices."""
    if device != "cpu":
        return []
    found = layers.every(shapes.ARCH, shapes.BATCH, shapes.SIDE)
    return [
        Group(layers.text(site), torch.Size(site.input_size).numel(), _methods(site))
        for site in found
        if site.is_depthwise
    ]


@each_method(groups())
def bench_depthwise_gradient(benchmark, group, method):
    bench(benchmark, group, method)
