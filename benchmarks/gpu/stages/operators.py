"""Stage b: operators beside what else a user could take, as shares of the speed of a copy."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.harness import methods, ours, shapes
from benchmarks.harness.methods import Group, Method, Row
from benchmarks.kernels import (
    activation,
    bench_bits_and_counts,
    bench_codes,
    bench_selection,
    weights,
)
from benchmarks.kernels.fake_quant import QUICK_SIZES, shape_of

SIZES = (1 << 26, 1 << 28)
TABLE = "Operators"


def groups(settings: Settings) -> Iterator[Group]:
    """Yield what the preferred backend does, then what others do, which may compile, then peers."""
    later = backends("fake_quant_per_tensor", settings.device)[1:]
    waiting: list[Group] = []
    for whole in whole_groups(settings):
        first, second = parted(whole, later)
        yield first
        waiting += [second] if second.methods else []
    yield from waiting
    if not settings.quick:
        yield from compiled_groups(settings.device)


def parted(group: Group, later: Sequence[str]) -> tuple[Group, Group]:
    """Return a group without some backends, and one of these with what they are compared with."""
    second = [method for method in group.methods if method.backend in later]
    first = [method for method in group.methods if method.backend not in later]
    against = {(method.against, method.direction, method.dtype) for method in second}
    # The first of a label is the preferred backend's.
    labels = {(m.label, m.direction, m.dtype): m for m in reversed(first)}
    beside = [m for m in first if m is labels[m.label, m.direction, m.dtype]]
    beside = [m for m in beside if (m.label, m.direction, m.dtype) in against]
    return replace(group, methods=first), replace(group, methods=[*beside, *second])


def whole_groups(settings: Settings) -> Iterator[Group]:
    """Yield activations first, then all weights, and masks, codes and counts of the network."""
    device, quick = settings.device, settings.quick
    able = backends("fake_quant_per_tensor", device)
    for elements in QUICK_SIZES[:1] if quick else SIZES:
        shape = shape_of(elements)
        own = [m for backend in able for m in activation.our_methods(shape, device, backend)]
        torchs = activation.torch_methods(shape, device)
        eager = activation.other_methods(shape, device, with_compiled=False)
        yield activation.group(shape, device, [*own, *torchs, *eager])
    layers = shapes.weights()[:8] if quick else shapes.weights()
    yield weights.group(layers, device, backends("fake_quant_weights", device))
    if not quick:
        for file in (bench_codes, bench_bits_and_counts, bench_selection):
            yield from file.groups(device)


def compiled_groups(device: str) -> Iterator[Group]:
    """Yield activations as inductor compiles them, beside the exact range of ours."""
    (preferred, *_) = backends("fake_quant_per_tensor", device)
    for shape in map(shape_of, SIZES):
        exact = activation.our_methods(shape, device, preferred)[:1]
        others = activation.other_methods(shape, device, with_compiled=True)
        compiled = [method for method in others if method.backend == "inductor"]
        yield activation.group(shape, device, [*exact, *compiled])


def measure(settings: Settings, record: Record) -> None:
    """Time every group, and record the least share of copy speed of the exact range's step."""
    rounds = 3 if settings.quick else 11
    repeats = 1 if settings.device == "cpu" else 5
    shares: list[float] = []
    for untried in groups(settings):
        group = replace(untried, methods=[_tried(m, settings.device) for m in untried.methods])
        timed = methods.measure_on_device(group, rounds, repeats=repeats)
        activation.inputs.cache_clear()
        for row, eager in timed:
            record.row(TABLE, cells(row, eager))
        shares += [share for row, _ in timed if (share := share_of_copy(row)) is not None]
        if shares:
            record.figure("fake_quant_share_of_copy", round(min(shares), 3))
    names = backends("fake_quant_per_tensor", settings.device)
    record.note(
        "Figure: the preferred backend's forward and backward step in float32 with the moving "
        f"range, the worse of the sizes. Backends here: {', '.join(names)}. On a device ms is that "
        "of a replayed CUDA graph, eager_ms that of calls from Python."
    )
    if not shares:
        record.missing("fake_quant_share_of_copy", "the step failed: see the table")
        return
    elements = 1 << 16
    kept = ours.saved_bytes_per_element(names[0], elements, settings.device)
    record.note(f"Kept for the backward pass: {kept:.4f} bytes an element.")


def cells(row: Row, eager: float | None) -> dict[str, object]:
    """Return a row of the table, with both times beside each other."""
    found: dict[str, object] = {}
    for name, value in row.as_dict().items():
        found |= {name: value, "eager_ms": eager} if name == "ms" else {name: value}
    return found


def backends(op: str, device: str) -> list[str]:
    """Return the backends to time; the specification, slow and large, only where it is alone."""
    found = ours.backends(op, device)
    return [name for name in found if name != "reference"] or found


def _tried(method: Method, device: str) -> Method:
    return replace(method, prepare=lambda: methods.tried(method.prepare, device))


def share_of_copy(row: Row) -> float | None:
    """Return the share of a row that counts for the figure: ratio 1 is the preferred backend's."""
    counts = row.label == activation.EXACT and row.dtype == "float32" and row.ratio == 1
    return row.share_of_copy if counts else None
