"""What is timed: methods that do one thing to the same tensors, and the row each one gets."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import graphs, ours
from benchmarks.harness.timing import ROUNDS, WARMUP, Step, Times, interleave
from micronet_kernels.backends import native

FORWARD, BOTH = "forward", "forward + backward"
COPY = "copy"
# Seconds of the calls of a step that a graph holds, as they take from Python, and at most how many.
LONG, MOST_CALLS = 2e-3, 20


class Unavailable(Exception):
    """A peer cannot run here; the text says why."""


def reason(error: Exception) -> str:
    """Return the kind of an error and its first line, as a row's note says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def tried(prepare: Callable[[], Step], device: str) -> Step:
    """Prepare a step and run it once.

    Raises Unavailable, with the traceback printed, where it fails: kernels that are new to a device
    may, and what is measured beside them goes on.
    """
    try:
        step = prepare()
        step()
        wait_for(device)()
    except Unavailable:
        raise
    except Exception as error:  # of whatever kind a kernel, a compiler or its device fails with
        traceback.print_exc()
        raise Unavailable(reason(error)) from error
    return step


@dataclass(frozen=True)
class Method:
    """One way to do what its group is about."""

    label: str  # what it is, the same for each backend: ratios are taken against a label
    op: str  # what is called
    direction: str
    dtype: str
    backend: str
    traffic: float  # bytes an element that have to be read and written at least
    prepare: Callable[[], Step]  # makes the tensors; may raise Unavailable
    against: str | None = None


@dataclass(frozen=True)
class Group:
    """Methods that are timed in turn, on tensors of `elements` elements."""

    shape: str
    elements: int
    methods: list[Method]
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One line of a table; what could not be measured is None, and the note says why."""

    label: str
    op: str
    direction: str
    shape: str
    dtype: str
    backend: str
    ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    gb_per_s: float | None
    share_of_copy: float | None
    ratio: float | None  # how many times the time of ours
    note: str

    def as_dict(self) -> dict[str, object]:
        """Return the row as plain data."""
        return asdict(self)


def measure(
    group: Group, rounds: int = ROUNDS, warmup: int = WARMUP, repeats: int = 1
) -> list[Row]:
    """Time a group's methods in turn, with a copy of as many floats as the ceiling beside them."""
    methods, steps, notes = prepared(group)
    times = interleave(steps, rounds, warmup, wait_for(group.device), repeats)
    return [_row(group, method, methods, times, notes.get(key(method), "")) for method in methods]


def measure_on_device(
    group: Group, rounds: int = ROUNDS, warmup: int = WARMUP, repeats: int = 1
) -> list[tuple[Row, float | None]]:
    """As `measure`, the times being the device's own; beside each row the ms of calls from Python.

    See `time_on_device`.
    """
    methods, steps, notes = prepared(group)
    timed = time_on_device(steps, group.device, rounds, warmup, repeats)
    times = {name: each.took for name, each in timed.items()}
    notes |= {name: each.note for name, each in timed.items()}
    rows = [_row(group, m, methods, times, notes[key(m)]) for m in methods]
    return [(row, _eager_ms(timed.get(key(m)))) for row, m in zip(rows, methods, strict=True)]


def _eager_ms(timed: "Timed | None") -> float | None:
    return None if timed is None or timed.eager is None else 1e3 * timed.eager.median


def prepared(group: Group) -> tuple[list[Method], dict[str, Step], dict[str, str]]:
    """Return a group's methods and the copy, the steps of those that can run, and why others not.

    Steps and reasons are under the key of their method.
    """
    methods = [*group.methods, copy_method(group.elements, group.device)]
    steps: dict[str, Step] = {}
    notes: dict[str, str] = {}
    for method in methods:
        assert key(method) not in steps, f"two methods are called {key(method)}"
        try:
            steps[key(method)] = method.prepare()
        except Unavailable as error:
            notes[key(method)] = str(error)
    return methods, steps, notes


@dataclass(frozen=True)
class Timed:
    """What a step took on its device, and called from Python where that was timed apart."""

    took: Times
    eager: Times | None = None
    note: str = ""


def time_on_device(
    steps: Mapping[str, Step], device: str, rounds: int, warmup: int, repeats: int
) -> dict[str, Timed]:
    """Time steps in turn; on a CUDA device once more as graphs, whose replay leaves out the host.

    A step that no graph can hold keeps the time of its calls, and a note says why. On the CPU there
    is one time.
    """
    eager = interleave(steps, rounds, warmup, wait_for(device), repeats)
    if device == "cpu":
        return {name: Timed(took) for name, took in eager.items()}
    pool = torch.cuda.graph_pool_handle()
    calls = {name: _calls(took.median) for name, took in eager.items()}
    replays: dict[str, Step] = {}
    notes: dict[str, str] = {}
    for name, step in steps.items():
        try:
            replays[name] = captured(lambda step=step: step, device, calls[name], pool)
        except Unavailable as error:
            notes[name] = f"called from Python: {error}"
            # A capture that was broken off may still hold the one before.
            pool = torch.cuda.graph_pool_handle()
    replayed = interleave(replays, rounds, warmup, wait_for(device))
    return {
        name: Timed(took, took, notes[name])
        if name in notes
        else Timed(replayed[name].shared(calls[name]), took)
        for name, took in eager.items()
    }


def _calls(seconds: float) -> int:
    """Return how many calls a graph holds, so that the wait after a replay weighs little."""
    return max(1, min(MOST_CALLS, round(LONG / seconds)))


def captured(prepare: Callable[[], Step], device: str, calls: int = 1, pool: Any = None) -> Step:
    """Prepare a step and return its replay; see `graphs.capture`.

    Raises Unavailable, with the traceback printed, on the CPU and where no graph can hold it.
    """
    if device == "cpu":
        raise Unavailable("CUDA graphs need a device")
    return tried(lambda: graphs.capture(prepare(), calls, pool), device)


def wait_for(device: str) -> Callable[[], object]:
    """Return what waits until `device` has finished."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def key(method: Method) -> str:
    """Return what tells a method from the others of its group."""
    parts = method.label, method.op, method.direction, method.dtype, method.backend
    return ", ".join(parts)


def _row(
    group: Group, method: Method, methods: list[Method], times: dict[str, Times], note: str
) -> Row:
    shape = group.shape
    named = (method.label, method.op, method.direction, shape, method.dtype, method.backend)
    if key(method) not in times:
        return Row(*named, None, None, None, None, None, None, note)
    took, ceiling = times[key(method)], methods[-1]
    rate = method.traffic * group.elements / took.median
    most = ceiling.traffic * group.elements / times[key(ceiling)].median
    return Row(
        *named,
        ms=1e3 * took.median,
        p10_ms=1e3 * took.p10,
        p90_ms=1e3 * took.p90,
        gb_per_s=rate / 1e9,
        share_of_copy=rate / most,
        ratio=_ratio(method, methods, times),
        note=note,
    )


def _ratio(method: Method, methods: list[Method], times: dict[str, Times]) -> float | None:
    """Compare with the first, which is the preferred, backend that has the other's label."""
    wanted = method.against, method.direction, method.dtype
    for other in methods:
        if (other.label, other.direction, other.dtype) == wanted and key(other) in times:
            return times[key(method)].median / times[key(other)].median
    return None


def copy_method(elements: int, device: str) -> Method:
    """Return the ceiling: a copy past the caches where the extension has one."""
    stream = native.TABLE and device == "cpu"
    op = "micronet_kernels._C.copy_stream" if stream else "Tensor.copy_"

    def prepare() -> Step:
        # Of ones: zeros would all be read from one page.
        source = torch.ones(elements, device=device)
        target = torch.empty_like(source)
        if not stream:
            return lambda: target.copy_(source)
        from micronet_kernels import _C

        return lambda: _C.copy_stream(source, target)

    backend = "native" if stream else "torch"
    return Method(COPY, op, FORWARD, "float32", backend, 8, prepare)


def compare(
    op: str,
    make: Callable[[], Step],
    peers: Mapping[str, Callable[[], Step]],
    *,
    label: str,
    traffic: float,
    device: str,
    direction: str = FORWARD,
    dtype: str = "float32",
) -> list[Method]:
    """Return one operator of ours on each backend that has it, then its peers by what they call."""

    def forced(backend: str) -> Callable[[], Step]:
        return lambda: ours.on(backend, make())

    found = [
        Method(label, op, direction, dtype, backend, traffic, forced(backend), label)
        for backend in ours.backends(op, device)
    ]
    for called, prepare in peers.items():
        library = "numpy" if called.startswith("numpy.") else "torch"
        found.append(
            Method(f"{label}, peer", called, direction, dtype, library, traffic, prepare, label)
        )
    return found


def train_step(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Step:
    """Return a step forward and backward, which ends with its output and gradient freed."""

    def step() -> None:
        function(x).backward(grad)
        x.grad = None

    return step
