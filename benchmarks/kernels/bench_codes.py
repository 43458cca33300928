"""Packed codes: of all weights of the network as they are stored, and of an activation."""

import functools
import math

import torch
from torch import Tensor

import micronet_kernels as kernels
from benchmarks.harness import ours, shapes
from benchmarks.harness.methods import Group, Method, compare
from benchmarks.harness.pytest_cases import bench, each_method
from benchmarks.harness.timing import Step
from micronet_kernels.scheme import packed_bytes

ACTIVATION = (16, 144, 56, 56)
# One of the largest weights of the network.
WEIGHT = (1280, 320, 1, 1)


def _codes(elements: int, levels: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(levels, (elements,), generator=generator, dtype=torch.uint8).to(device)


def _normal(shape: shapes.Shape, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


# Streams of codes -------------------------------------------------------------------------------


def _pack(elements: int, levels: int, device: str) -> Step:
    codes = _codes(elements, levels, device)
    return lambda: kernels.pack_codes(codes, levels)


def _unpack(elements: int, levels: int, device: str) -> Step:
    packed = kernels.pack_codes(_codes(elements, levels, device), levels)
    return lambda: kernels.unpack_codes(packed, elements, levels)


def _pack_by_torch(elements: int, device: str) -> Step:
    codes = _codes(elements + elements % 2, 16, device).view(-1, 2)
    return lambda: codes[:, 0] | codes[:, 1] << 4


def _unpack_by_torch(elements: int, device: str) -> Step:
    packed = _codes((elements + 1) // 2, 256, device)
    return lambda: torch.stack((packed & 15, packed >> 4), 1).flatten()


def _streams(levels: int, device: str) -> Group:
    elements = sum(math.prod(shape) for shape in shapes.weights())
    found: list[Method] = []
    for op, make, by_torch, called in (
        ("pack_codes", _pack, _pack_by_torch, "bitwise_or, shift"),
        ("unpack_codes", _unpack, _unpack_by_torch, "bitwise_and, shift, stack"),
    ):
        # torch has nothing for levels that are no power of two.
        peers = {called: functools.partial(by_torch, elements, device)} if levels == 16 else {}
        found += compare(
            op,
            functools.partial(make, elements, levels, device),
            peers,
            label=f"{op}, {levels} levels",
            traffic=1 + packed_bytes(elements, levels) / elements,
            device=device,
            dtype="uint8",
        )
    return Group(f"{elements:,} codes of {levels} levels", elements, found, device)


# Codes of tensors; torch's own have eight bits --------------------------------------------------


def _quantize(device: str) -> Step:
    x, ends = _normal(ACTIVATION, device), torch.tensor([ours.LO, ours.HI], device=device)
    return lambda: kernels.quantize_per_tensor(x, ends, ours.LEVELS)


def _dequantize(device: str) -> Step:
    x, ends = _normal(ACTIVATION, device), torch.tensor([ours.LO, ours.HI], device=device)
    codes = kernels.quantize_per_tensor(x, ends, ours.LEVELS)[0]
    return lambda: kernels.dequantize_per_tensor(codes, ends, x.numel(), ours.LEVELS)


def _quantize_by_torch(device: str) -> Step:
    x = _normal(ACTIVATION, device)
    return lambda: torch.quantize_per_tensor(x, 0.03125, 128, torch.quint8)


def _dequantize_by_torch(device: str) -> Step:
    codes = torch.quantize_per_tensor(_normal(ACTIVATION, device), 0.03125, 128, torch.quint8)
    return lambda: codes.dequantize()


def _quantize_channels(device: str) -> Step:
    w = _normal(WEIGHT, device)
    return lambda: kernels.quantize_per_channel(w, ours.LEVELS)


def _quantize_channels_by_torch(device: str) -> Step:
    w = _normal(WEIGHT, device)
    scale = torch.full((WEIGHT[0],), 0.03125, device=device)
    zero = torch.full((WEIGHT[0],), 128, device=device)
    return lambda: torch.quantize_per_channel(w, scale, zero, 0, torch.quint8)


def _tensors(device: str) -> list[Group]:
    def methods(op: str, make, called: str, peer, traffic: float) -> list[Method]:
        peers = {called: functools.partial(peer, device)}
        make = functools.partial(make, device)
        return compare(op, make, peers, label=op, traffic=traffic, device=device)

    # Bytes an element: the float, its code of four bits or of eight, the bit of its gradient.
    activation = [
        *methods(
            "quantize_per_tensor", _quantize, "torch.quantize_per_tensor", _quantize_by_torch,
            4 + 1 / 2 + 1 / 8,
        ),
        *methods(
            "dequantize_per_tensor", _dequantize, "dequantize", _dequantize_by_torch, 4 + 1 / 2
        ),
    ]  # fmt: skip
    weight = methods(
        "quantize_per_channel", _quantize_channels,
        "torch.quantize_per_channel", _quantize_channels_by_torch, 4 + 1,
    )  # fmt: skip
    return [
        Group(shapes.text(ACTIVATION), math.prod(ACTIVATION), activation, device),
        Group(shapes.text(WEIGHT), math.prod(WEIGHT), weight, device),
    ]


def groups(device: str = "cpu") -> list[Group]:
    """Return streams of 16 and of 5 levels, then an activation and a weight."""
    return [_streams(16, device), _streams(5, device), *_tensors(device)]


@each_method(groups())
def bench_codes(benchmark, group, method):
    bench(benchmark, group, method)
