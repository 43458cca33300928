"""Stage c: the convolution of codes for every layer shape, beside cuDNN in bfloat16."""

import torch

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness import methods, shapes
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.timing import WARMUP, interleave
from benchmarks.qat import layers as qat_layers
from benchmarks.qat.sites import Site

TABLE = "Convolutions"
MEASURED = ("ms", "torch ms", "x torch", "of roofline", "eager ms", "torch eager ms")
# Dense products of 8-bit integers a second, in 10^12, of the vendors' data sheets (a multiply-add
# is one product); by what the name of the device contains.
TERA_MACS = {"H100 PCIe": 756.5, "H100": 989.5, "H200": 989.5, "A100": 312.0}


def measure(settings: Settings, record: Record) -> None:
    """Time every layer shape but the stem, which stays in float, costliest first."""
    arch, batch, side = ("efficientnet-b0", 2, 32) if settings.quick else (shapes.ARCH, 256, 224)
    found = qat_layers.every(arch, batch, side)
    stem = next(iter(found))
    sites = sorted((s for s in found if s != stem), key=lambda s: s.macs * found[s], reverse=True)
    copied = 1 << 16 if settings.quick else 1 << 28
    copy = copy_rate(copied, settings.device)
    macs = device_macs(settings.device)
    record.note(
        f"{arch} at batch {batch} and {side} pixels. Roofline: the longer of {copy / 1e12:.2f} "
        "TB/s, the copy measured here, for half a byte an input and two an output, and "
        + (f"{macs / 1e12:.0f} T products a second." if macs else "no known rate of products.")
    )
    if settings.quick:
        sites = sites[:3]
    for site in sites:
        record.row(TABLE, layer_row(site, found[site], settings, copy, macs))
    rows = [row for row in record.found.tables[TABLE] if row["ms"] is not None]
    if not rows:
        raise SystemExit("no layer could be timed: the table says why")
    ours, other = (sum(row[key] * row["layers"] for row in rows) for key in ("ms", "torch ms"))
    layers = sum(row["layers"] for row in rows)
    record.note(f"{layers} layers: {ours:.3g} ms in codes, {other:.3g} ms in torch's bfloat16.")


@torch.no_grad()
def layer_row(
    site: Site, count: int, settings: Settings, copy: float, macs: float | None
) -> dict[str, object]:
    """Time one shape on both sides."""
    device = settings.device
    moved = qat_layers.moved_bytes(site)
    roofline = max(moved / copy, site.macs / macs if macs else 0.0)
    row = {
        "layer": qat_layers.text(site),
        "groups": site.groups,
        "layers": count,
        "MB": moved / 1e6,
        "GMAC": site.macs / 1e9,
        "roofline ms": 1e3 * roofline,
    }
    try:
        ours = methods.tried(lambda: qat_layers.ours(site, device), device)
    except Unavailable as error:
        return {**row, **dict.fromkeys(MEASURED), "note": str(error)}
    steps = {"ours": ours, "torch": qat_layers.torchs(site, device, torch.bfloat16)}
    rounds, repeats = (2, 1) if settings.quick else (7, 5)
    timed = methods.time_on_device(steps, device, rounds, WARMUP, repeats)
    took, torchs = (timed[name].took.median for name in steps)
    eager = (each.eager and 1e3 * each.eager.median for each in timed.values())
    measured = (1e3 * took, 1e3 * torchs, took / torchs, roofline / took, *eager)
    note = "; ".join(f"{name} {each.note}" for name, each in timed.items() if each.note)
    return {**row, **dict(zip(MEASURED, measured, strict=True)), "note": note}


def copy_rate(elements: int, device: str) -> float:
    """Return the bytes a second that a copy of so many floats reads and writes."""
    copy = methods.copy_method(elements, device)
    wait = methods.wait_for(device)
    took = interleave({"copy": copy.prepare()}, rounds=5, wait=wait)["copy"].median
    return copy.traffic * elements / took


def device_macs(device: str) -> float | None:
    """Return the products a second that the device's data sheet gives, where it is known."""
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name(0)
    return next((1e12 * rate for known, rate in TERA_MACS.items() if known in name), None)
