"""The forward pass of a network's convolutions, ours on codes beside torch's in float32."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import micronet_kernels as kernels
from benchmarks.harness import methods, shapes
from benchmarks.harness.ours import HI, LEVELS, LO
from benchmarks.harness.timing import interleave
from benchmarks.qat import sites as qat_sites
from benchmarks.qat.sites import Site
from micronet.models import architectures

POINTWISE, DEPTHWISE = "pointwise", "depthwise"
COSTLIEST = 10
# Beyond any cache: the ceiling is that of memory.
COPIED = 1 << 24


@dataclass(frozen=True)
class LayerRow:
    """One convolution; what its kind does not have is None."""

    kind: str
    site: str
    count: int  # of layers of the network with these sizes
    ms: float
    torch_ms: float
    ratio: float  # ours over torch's time
    gmac_per_s: float
    torch_gmac_per_s: float
    gb_per_s: float | None
    share_of_copy: float | None


def every(arch: str, batch: int, side: int) -> Counter[Site]:
    """Return the sites of a network, in the order of its layers, and how many layers each has."""
    with torch.device("meta"):
        network = architectures.create_model(arch, shapes.CLASSES).eval()
        return Counter(qat_sites.sites(network, torch.empty(batch, 3, side, side)).values())


def chosen(arch: str, batch: int, side: int) -> dict[Site, tuple[str, int]]:
    """Return kind and number of the pointwise sites with most products, and of all depthwise."""
    found = every(arch, batch, side)
    pointwise = sorted(
        (site for site in found if site.is_pointwise),
        key=lambda site: site.macs * found[site],
        reverse=True,
    )
    depthwise = [site for site in found if site.is_depthwise]
    return {
        **{site: (POINTWISE, found[site]) for site in pointwise[:COSTLIEST]},
        **{site: (DEPTHWISE, found[site]) for site in depthwise},
    }


def measure(arch: str, batch: int, side: int, rounds: int, copied: int = COPIED) -> list[LayerRow]:
    """Time every chosen site."""
    return [
        _measure(site, kind, count, rounds, copied)
        for site, (kind, count) in chosen(arch, batch, side).items()
    ]


@torch.no_grad()
def _measure(site: Site, kind: str, count: int, rounds: int, copied: int) -> LayerRow:
    ceiling = methods.copy_method(copied, "cpu")
    # Apart from the convolutions, whose caches it would empty.
    copy = interleave({"copy": ceiling.prepare()}, rounds=3)["copy"].median
    steps = {"ours": ours(site), "torch": torchs(site)}
    times = interleave(steps, rounds)
    mine, other = times["ours"].median, times["torch"].median
    rate = moved_bytes(site) / mine if kind == DEPTHWISE else None
    return LayerRow(
        kind,
        text(site),
        count,
        ms=1e3 * mine,
        torch_ms=1e3 * other,
        ratio=mine / other,
        gmac_per_s=site.macs / mine / 1e9,
        torch_gmac_per_s=site.macs / other / 1e9,
        gb_per_s=None if rate is None else rate / 1e9,
        share_of_copy=None if rate is None else rate * copy / (ceiling.traffic * copied),
    )


def moved_bytes(site: Site) -> float:
    """Return the least bytes: half a byte an element of codes, two an element of sums."""
    return 0.5 * torch.Size(site.input_size).numel() + 2.0 * torch.Size(site.output_size).numel()


def text(site: Site) -> str:
    """Return the sizes as they stand in a table: 16x32x112x112 -> 16, 3x3 /2."""
    y, x = site.weight_size[2:]
    stride = f" /{site.stride[0]}" if site.stride[0] > 1 else ""
    return f"{shapes.text(site.input_size)} -> {site.weight_size[0]}, {y}x{x}{stride}"


def _tensors(site: Site, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(site.input_size, generator=generator, device=device)
    return x.contiguous(memory_format=torch.channels_last), torch.randn(
        site.weight_size, generator=generator, device=device
    )


def ours(site: Site, device: str = "cpu") -> Callable[[], object]:
    """Return the operator on codes, the rounding of its weights included."""
    x, w = _tensors(site, device)
    call = kernels.ConvCall(LEVELS, LEVELS, site.stride, site.padding, (1, 1), site.groups)
    codes = kernels.quantize_input(x, torch.tensor([LO, HI], device=device), LEVELS)
    mask = torch.empty(0, dtype=torch.uint8, device=device)
    arguments = call.arguments(codes, w, kernels.QuantizedWeights.of_ranges(w, mask))
    return lambda: torch.ops.micronet.quant_conv2d.default(*arguments)


def torchs(
    site: Site, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Callable[[], object]:
    """Return torch's convolution; padding that is uneven is added beforehand."""
    x, w = (t.to(dtype) for t in _tensors(site, device))
    w = w.contiguous(memory_format=torch.channels_last)
    top, left, bottom, right = site.padding
    padding = (top, left)
    if padding != (bottom, right):
        padding = (0, 0)
        x = F.pad(x, [left, right, top, bottom]).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, w, None, site.stride, padding, 1, site.groups)
