"""What bounds each convolution of codes of EfficientNet-B1, by the tiles of the CUDA kernels."""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from benchmarks.cuda.compiler import CSRC, Instructions, Kernel
from benchmarks.cuda.costs import CHIPS, THREADS, WIDE_STORE
from benchmarks.harness import shapes
from benchmarks.qat import layers as qat_layers
from benchmarks.qat import sites as qat_sites
from benchmarks.qat.sites import Site
from micronet.models import architectures

BATCH = 256
TENSOR_CORE = r"(IMMA|HMMA|IGMMA|HGMMA)\b"
COPY = r"LDGSTS\b"

Row = dict[str, object]


@functools.cache
def constant(name: str) -> int:
    """Return a constant of the sources."""
    for path in sorted((CSRC / "cuda").iterdir()):
        found = re.search(rf"\b{name} = (\d+)\b", path.read_text())
        if found:
            return int(found[1])
    raise LookupError(f"csrc/cuda has no constant {name}")


def sites() -> dict[Site, int]:
    """Return the convolutions that read codes, all but the first, and how often each occurs."""
    with torch.device("meta"):
        network = architectures.create_model(shapes.ARCH, shapes.CLASSES).eval()
        images = torch.empty(BATCH, 3, shapes.SIDE, shapes.SIDE)
        _, *found = qat_sites.sites(network, images).values()
    return dict(Counter(found))


def moved_bytes(site: Site) -> float:
    """Return the least bytes: of codes, of sums of two bytes, and of float32 weights."""
    return qat_layers.moved_bytes(site) + 4.0 * math.prod(site.weight_size)


def kernel_of(site: Site) -> str:
    """Return the kernel of a site, of half bytes; a copy brings 16, 8 or 4 bytes, none where 0."""
    channels = site.weight_size[1]
    if site.is_depthwise:
        return f"depthwise<4, {str(site.input_size[1] % 8 == 0).lower()}, 0>"
    width = next((width for width in (16, 8, 4) if channels % (2 * width) == 0), 0)
    return f"implicit_gemm<{width}, 4, false, 0>"


def _up(value: int, unit: int) -> int:
    return -(-value // unit)


def tiles_and_steps(site: Site) -> tuple[int, int]:
    """Return the tiles of a site, and the passes of each over its products."""
    images, outputs, height, width = site.output_size
    taps = math.prod(site.weight_size[2:])
    if site.is_depthwise:
        rows, columns = constant("kRowsOut"), constant("kColumnsOut")
        places = images * _up(height, rows) * _up(width, columns)
        words = THREADS // 32 * constant("kWordCodes")
        return places * _up(outputs, words), _up(taps, constant("kSliceTaps"))
    pixels = _up(images * height * width, constant("kTilePixels"))
    blocks = site.groups * _up(outputs // site.groups, constant("kTileOutputs"))
    words = taps * _up(site.weight_size[1], constant("kWordCodes"))
    return pixels * blocks, _up(words, constant("kStepWords"))


def _loop(kernel: Kernel, pattern: str) -> Instructions:
    """Return the loop that has fewest instructions for each of one."""
    found = [loop for loop in kernel.loops if loop.count(pattern)]
    return min(found, key=lambda loop: len(loop) / loop.count(pattern))


def instructions_of(kernel: Kernel, site: Site, steps: int) -> float:
    """Return the instructions of a thread in a tile, with sums of two bytes.

    Of the branches that are taken once all are counted, so it is a bound from above.
    """
    store, sums = _loop(kernel, WIDE_STORE), _loop(kernel, TENSOR_CORE)
    outputs = constant("kTileOutputs")
    brought = 0.0  # a product's steps are brought in the loop that sums them
    if site.is_depthwise:
        outputs = THREADS // 32 * constant("kWordCodes")
        bring = _loop(kernel, COPY)
        brought = float(_up(rows_and_columns(site), THREADS) * len(bring))
    stored = constant("kTilePixels") * outputs / 8 / THREADS
    once = len(kernel.all) - sum(map(len, _outermost(kernel)))
    return once + brought + steps * len(sums) + stored * len(store)


def _outermost(kernel: Kernel) -> list[Instructions]:
    """Return the loops that lie in no other."""
    return [
        loop
        for loop in kernel.loops
        if not any(other.start <= loop.start and loop.end < other.end for other in kernel.loops)
    ]


def rows_and_columns(site: Site) -> int:
    """Return the pixels that a tile of a depthwise convolution reads."""
    sides = (constant("kRowsOut"), constant("kColumnsOut"))
    return math.prod(
        (side - 1) * stride + kernel
        for side, stride, kernel in zip(sides, site.stride, site.weight_size[2:], strict=True)
    )


def multiplied(site: Site, steps: int) -> int:
    """Return the products that a tile gives the tensor cores, those with zeros too."""
    if site.is_depthwise:
        each = constant("kSliceTaps") * constant("kWordCodes") * constant("kWordCodes")
        return constant("kTilePixels") * steps * each * THREADS // 32
    depth = steps * constant("kStepWords") * constant("kWordCodes")
    return constant("kTilePixels") * constant("kTileOutputs") * depth


def row(site: Site, layers: int, kernels: Mapping[str, Kernel]) -> Row:
    """Return what bounds a site; times in microseconds."""
    kernel = kernels[kernel_of(site)]
    chip = CHIPS[kernel.architecture]
    tiles, steps = tiles_and_steps(site)
    elements = math.prod(site.output_size)
    floor = max(moved_bytes(site) / chip.bytes, site.macs / chip.int8_macs)
    products = tiles * multiplied(site, steps) / chip.int8_macs
    issued = tiles * THREADS * instructions_of(kernel, site, steps) / chip.instructions
    return {
        "layers": layers,
        "kernel": kernel.name,
        "bytes": round(moved_bytes(site) / elements, 2),
        "macs": site.macs // elements,
        "floor": round(1e6 * floor, 1),
        "tensor_cores": round(1e6 * products, 1),
        "issue": round(1e6 * issued, 1),
        "share": round(floor / max(floor, products, issued), 2),
    }


def rows(kernels: Sequence[Kernel]) -> dict[str, Row]:
    """Return the row of each site, costliest first, by its sizes."""
    by_name = {kernel.name: kernel for kernel in kernels}
    found = {qat_layers.text(site): row(site, count, by_name) for site, count in sites().items()}
    costliest = sorted(found, key=lambda text: found[text]["floor"] * found[text]["layers"])
    return {text: found[text] for text in reversed(costliest)}


ABOUT = (
    f"Convolutions of codes of EfficientNet-B1 at batch {BATCH} and {shapes.SIDE} pixels, sums of "
    "two bytes, on sm_90. Bytes and MACs are of an output element. Least: the time, in us, that "
    "the bytes take at 3.0 TB/s or the products at the data sheet's rate of int8 tensor cores, "
    "989 T/s, whichever is longer. Tensor cores: the time at that rate of what the tiles multiply, "
    "zeros that fill them up included. Issue: the time in which the instructions of the kernel can "
    "be issued. Share: the least time over the longest of the three."
)


def markdown(found: Mapping[str, Row]) -> str:
    """Return the table."""
    facts = ("layers", "kernel", "bytes", "macs", "floor", "tensor_cores", "issue")
    head = ["sizes", "layers", "kernel", "bytes", "MACs", "least", "tensor cores", "issue", "share"]
    lines = [head, ["---", "--:", "---", *["--:"] * 6]]
    for text, one in found.items():
        lines.append([text, *(str(one[fact]) for fact in facts), f"{one['share']:.0%}"])
    return "\n".join([ABOUT, "", *("| " + " | ".join(line) + " |" for line in lines)])
