"""Stage e: codes, integer sums and logits in evaluation, bit for bit those of the CPU."""

import copy
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import micronet_kernels as kernels
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness.machine import ROOT
from micronet.data.batches import IMAGENET_STATISTICS
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedConv2d, quantized_layers
from micronet.recipe import reader

TABLE, COUNT, BATCH = "Bits", 1000, 50
ENDINGS = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Case:
    """A network, the recipe that quantizes it, and the side of its images."""

    arch: str
    recipe: str
    side: int


CASES = (
    Case("efficientnet-b0", "efficientnet_b1_qat", 224),
    Case("resnet20", "cifar10_resnet20_qat", 32),
)
QUICK_CASES = (Case("efficientnet-micro", "efficientnet_b1_qat", 32), CASES[1])


@torch.no_grad()
def measure(settings: Settings, record: Record) -> None:
    """Compare every network on both devices; identical means every value of every batch."""
    count = 4 if settings.quick else COUNT
    files = image_files(settings.images, Path(settings.scratch))[:count]
    what = f"{len(files)} of the given ones" if files else f"{count} made ones, normal values"
    record.note(f"Images: {what}. The ranges are those of two training batches on the CPU.")
    same = True
    for case in QUICK_CASES if settings.quick else CASES:
        batches = list(images(files, case.side, count))
        network = prepared(case, batches)
        there = copy.deepcopy(network).to(settings.device)
        logits, values = compare(network, there, batches, settings.device)
        same = same and logits["differ"] == 0 and all(v["differ"] == 0 for v in values)
        for row in (logits, *values):
            record.row(TABLE, {"network": case.arch, **row})
    if settings.device == "cpu":
        record.missing("bit_identical", "no device: the CPU was compared with itself")
    else:
        record.figure("bit_identical", same)


# Images -----------------------------------------------------------------------------------------


def image_files(where: str, scratch: Path) -> list[Path]:
    """Return the image files of a folder or of a tar, which is unpacked first, in their order."""
    if not where:
        return []
    folder = Path(where)
    if not folder.is_dir():
        folder = scratch / "images"
        with tarfile.open(where) as archive:
            archive.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def images(files: list[Path], side: int, count: int) -> Iterator[Tensor]:
    """Yield batches of normalized images, made ones where there are no files."""
    if not files:
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(count, 3, side, side, generator=generator)
        yield from (
            batch.contiguous(memory_format=torch.channels_last) for batch in whole.split(BATCH)
        )
        return
    transform = v2.Compose(
        [
            v2.Resize(round(side * 256 / 224)),
            v2.CenterCrop(side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET_STATISTICS),
        ]
    )
    for start in range(0, len(files), BATCH):
        chosen = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        batch = torch.stack([transform(image) for image in chosen])
        yield batch.contiguous(memory_format=torch.channels_last)


# Networks ---------------------------------------------------------------------------------------


def prepared(case: Case, batches: list[Tensor]) -> nn.Module:
    """Return the quantized network in evaluation mode, its ranges and statistics from batches."""
    torch.manual_seed(0)
    network = architectures.create_model(case.arch, 10)
    path = ROOT / "schedules" / f"{case.recipe}.yaml"
    section = reader.load_recipe(path).quantize
    assert section is not None
    quantize.convert_(network, quantize.plan(network, section, str(path)))
    network.to(memory_format=torch.channels_last).train()
    for batch in batches[:2]:
        network(batch)
    return network.eval()


def compare(
    here: nn.Module, there: nn.Module, batches: list[Tensor], device: str
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Return how many logits of all batches differ, and how many codes and sums of the first."""
    values = layer_values(here, there, batches[0], device)
    count = differ = 0
    for batch in batches:
        expected, found = here(batch), there(batch.to(device))
        count += expected.numel()
        differ += different(expected, found)
    return {"what": "logits", "values": count, "differ": differ}, values


def layer_values(
    here: nn.Module, there: nn.Module, batch: Tensor, device: str
) -> list[dict[str, object]]:
    """Compare codes and sums of every convolution of codes, each fed with its input on the CPU."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            # A tensor of its own: the network may write to the one that it passes on.
            lambda _, given, name=name: inputs.update({name: given[0].clone()})
        )
        for name, layer in quantized_layers(here)
        if isinstance(layer, QuantizedConv2d) and layer.is_exact
    ]
    here(batch)
    for hook in hooks:
        hook.remove()
    totals = {"codes": [0, 0], "sums": [0, 0]}
    for name, x in inputs.items():
        expected = codes_and_sums(here.get_submodule(name), x)
        found = codes_and_sums(there.get_submodule(name), x.to(device))
        for total, ours, theirs in zip(totals.values(), found, expected, strict=True):
            total[0] += theirs.numel()
            total[1] += different(theirs, ours)
    return [
        {"what": what, "values": total[0], "differ": total[1]} for what, total in totals.items()
    ]


def codes_and_sums(layer: QuantizedConv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the packed codes of a layer's input, and the integers that it sums them to."""
    codes = layer.input_quantizer.codes(layer.bordered(x))
    call = kernels.ConvCall(
        layer.activation_levels, layer.weight_levels, *layer.geometry(codes.size[2:])
    )
    arguments = call.arguments(codes, layer.weight.contiguous(), layer.mask)
    return codes.codes, torch.ops.micronet.quant_conv2d.default(*arguments)[0]


def different(expected: Tensor, found: Tensor) -> int:
    """Return how many values are not the same bits; all where the shapes or types differ."""
    found = found.detach().cpu()
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return expected.numel()
    if expected.dtype.is_floating_point:
        expected, found = (t.contiguous().view(torch.int32) for t in (expected, found))
    return int((expected != found).sum())
