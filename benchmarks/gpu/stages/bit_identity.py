"""Stage e: codes, integer sums and logits in evaluation, bit for bit those of the CPU."""

import copy
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import micronet_kernels as kernels
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness.images import different, image_files, images
from benchmarks.harness.machine import ROOT
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedConv2d, quantized_layers
from micronet.recipe import reader

TABLE, LOGITS, COUNT = "Bits", "logits", 1000
# Of a batch: images that the ranges come from, and those whose codes and sums are compared in every
# layer, which takes three times as long as their logits.
IN_TRAINING, IN_LAYERS = 16, 10
# Seconds before the stage is killed: what is not compared until then is said not to be.
REST = 5


@dataclass(frozen=True)
class Case:
    """A network, the recipe that quantizes it, and the side of its images."""

    arch: str
    recipe: str
    side: int


# The one that takes longest is the last.
CASES = (
    Case("resnet20", "cifar10_resnet20_qat", 32),
    Case("efficientnet-b0", "efficientnet_b1_qat", 224),
)
QUICK_CASES = (Case("efficientnet-micro", "efficientnet_b1_qat", 32), CASES[0])
Row = dict[str, Any]


@torch.no_grad()
def measure(settings: Settings, record: Record) -> None:
    """Compare every network on both devices; identical means every value of every batch.

    The stage ends before it is killed; a comparison that is not whole gives no figure.
    """
    # Batches share the cores, not the parts of an operator: these wait for each other at its end,
    # for several times as long on cores that others use as well.
    torch.set_num_threads(1)
    count = 4 if settings.quick else COUNT
    files = image_files(settings.images, Path(settings.scratch))[:count]
    count = len(files) or count
    what = f"{len(files)} of the given ones" if files else f"{count} made ones, normal values"
    record.note(f"Images: {what}. The ranges are those of two batches of training on the CPU.")
    known: list[Row] = []
    cases = QUICK_CASES if settings.quick else CASES
    for case in cases:
        rows: list[Row] = []
        for rows in rows_of(case, files, count, settings):
            record.table(TABLE, [*known, *rows])
        known += rows
    done = {row["network"]: row["images"] for row in known if row["what"] == LOGITS}
    compared = {case.arch: done.get(case.arch, 0) for case in cases}
    late = ", ".join(f"{n} of {count} for {arch}" for arch, n in compared.items() if n < count)
    same = all(row["differ"] == 0 for row in known)
    if late:
        record.note(f"There was no time for all images: {late}.")
    if settings.device == "cpu":
        record.missing("bit_identical", "no device: the CPU was compared with itself")
    elif late and same:
        record.missing("bit_identical", f"no bit differed, but no time for all images: {late}")
    else:
        record.figure("bit_identical", same)


def rows_of(case: Case, files: list[Path], count: int, settings: Settings) -> Iterator[list[Row]]:
    """Yield the rows of a network after each batch, until no time is left."""
    if settings.left() < REST:
        return
    batches = list(images(files, case.side, count))
    network = prepared(case, [batch[:IN_TRAINING] for batch in batches[:2]])
    there = copy.deepcopy(network).to(settings.device)
    try:
        for rows in compare(network, there, batches, settings):
            yield [{"network": case.arch, **row} for row in rows]
    except TimeoutError:
        return


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
    here: nn.Module, there: nn.Module, batches: Sequence[Tensor], settings: Settings
) -> Iterator[list[Row]]:
    """Yield after each batch how many values were compared, and how many of them differ.

    Logits are those of all batches so far, codes and sums those of all layers for the first images.
    Raises TimeoutError where the stage has no time left.
    """
    done = count = differ = 0
    values = layer_values(here, there, batches[0][:IN_LAYERS], settings.device)
    all_expected = evaluated(here, batches, settings)
    for batch, expected in zip(batches, all_expected, strict=True):
        found = there(batch.to(settings.device))
        count += expected.numel()
        differ += different(expected, found)
        done += len(batch)
        logits = {"what": LOGITS, "images": done, "values": count, "differ": differ}
        yield [logits, *values]


def evaluated(
    network: nn.Module, batches: Sequence[Tensor], settings: Settings
) -> Iterator[Tensor]:
    """Yield the logits of batches in their order, as many evaluated at a time as there are cores.

    Raises TimeoutError where the stage has no time left.
    """

    @torch.no_grad()
    def logits(batch: Tensor) -> Tensor:
        return network(batch)

    left = settings.left() - REST
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from threads.map(logits, batches, timeout=None if math.isinf(left) else left)
    finally:
        # Those that have begun are not waited for: what is known is written down first.
        threads.shutdown(wait=False, cancel_futures=True)


def layer_values(here: nn.Module, there: nn.Module, batch: Tensor, device: str) -> list[Row]:
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
        {"what": what, "images": len(batch), "values": total[0], "differ": total[1]}
        for what, total in totals.items()
    ]


def codes_and_sums(layer: QuantizedConv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the packed codes of a layer's input, and the integers that it sums them to."""
    codes = layer.input_quantizer.codes(layer.bordered(x), x.shape[1:].numel())
    call = kernels.ConvCall(
        layer.activation_levels, layer.weight_levels, *layer.geometry(codes.size[2:])
    )
    weights = kernels.QuantizedWeights.of_ranges(layer.weight, layer.mask)
    arguments = call.arguments(codes, layer.weight.contiguous(), weights)
    return codes.codes, torch.ops.micronet.quant_conv2d.default(*arguments)[0]
