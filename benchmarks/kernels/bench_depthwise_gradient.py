"""Both gradients of the network's depthwise convolutions of codes on the CPU, beside torch's."""

import functools
from typing import NamedTuple

import torch

from benchmarks.harness import shapes
from benchmarks.harness.methods import Group, Method, compare
from benchmarks.harness.ours import HI, LEVELS, LO
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step
from benchmarks.qat import layers
from benchmarks.qat.sites import Site
from micronet_kernels import ConvCall
from micronet_kernels.lazy.convolution_gradient import torchs

OP = torch.ops.micronet


class Operands(NamedTuple):
    """A depthwise convolution of codes and the gradient to its outputs."""

    grad: torch.Tensor
    codes: torch.Tensor
    ends: torch.Tensor
    w: torch.Tensor

    @classmethod
    def draw(cls, site: Site) -> "Operands":
        """Draw one of a site."""
        generator = torch.Generator().manual_seed(0)
        x, grad = (
            torch.randn(size, generator=generator).contiguous(memory_format=torch.channels_last)
            for size in (site.input_size, site.output_size)
        )
        ends = torch.tensor([LO, HI])
        codes, _, _ = OP.quantize_per_tensor(x, ends, LEVELS, 0)
        return cls(grad, codes, ends, torch.randn(site.weight_size, generator=generator))


def _ours(site: Site) -> Step:
    o = Operands.draw(site)
    table = torch.linspace(LO, HI, LEVELS)
    sizes = map(list, (site.input_size, site.stride, site.padding, (1, 1)))
    arguments = o.grad, o.codes, table, o.w, *sizes, True, True
    return lambda: OP.depthwise_gradient(*arguments)


def _torch(site: Site) -> Step:
    """The values of the codes are made each time, as a training step has to."""
    o = Operands.draw(site)
    call = ConvCall(LEVELS, LEVELS, site.stride, site.padding, (1, 1), site.groups)
    n, c, h, w = site.input_size

    def step() -> object:
        flat = OP.dequantize_per_tensor(o.codes, o.ends, n * c * h * w, LEVELS, 0, torch.float32)
        x = flat.view(n, h, w, c).permute(0, 3, 1, 2)
        return torchs(o.grad, x, o.w, call, (True, True))

    return step


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
