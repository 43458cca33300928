"""How `make gpu` tells the device's time from the host's: graphs and kernels, with stand-ins."""

import contextlib
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import convolutions, forms, operators, training_step
from benchmarks.gpu.stages.forms import GRAPHED
from benchmarks.gpu.stages.training_step import FIGURED
from benchmarks.harness import graphs, kernel_times, methods
from benchmarks.harness.methods import Unavailable
from benchmarks.harness.timing import Times
from benchmarks.qat.networks import OURS, SILU


def times(seconds):
    return Times(seconds, seconds, seconds)


# Captures ---------------------------------------------------------------------------------------


class Cuda:
    """Stands for what a capture calls of torch.cuda, and writes down what happens in its order."""

    def __init__(self, monkeypatch):
        self.said, self.stream_now = [], "default"
        made = SimpleNamespace(wait_stream=lambda _: self.said.append("side after default"))
        default = SimpleNamespace(wait_stream=lambda _: self.said.append("default after side"))
        for name, value in {
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.said.append("replay")),
            "current_stream": lambda: default,
            "stream": lambda stream: self.on("side"),
            "graph": lambda graph, pool, stream: self.capturing(stream is made, pool),
            "set_sync_debug_mode": lambda mode: self.said.append(f"sync {mode}"),
            "synchronize": lambda: None,
            "graph_pool_handle": lambda: "pool",
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(graphs, "_side", lambda: made)

    @contextlib.contextmanager
    def on(self, name):
        before, self.stream_now = self.stream_now, name
        try:
            yield
        finally:
            self.stream_now = before

    @contextlib.contextmanager
    def capturing(self, on_side, pool):
        self.said.append(f"capture {on_side} {pool}")
        yield
        self.said.append("captured")

    def step(self):
        self.said.append(f"step on {self.stream_now}")


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


def test_a_step_is_warmed_up_tried_without_waiting_and_captured_on_one_stream(cuda):
    replay = graphs.capture(cuda.step, 2, "pool")
    step = "step on side"
    assert cuda.said == [
        "side after default",
        *[step] * graphs.WARM_UP,
        *("sync error", step, "sync default"),
        *("capture True pool", step, step, "captured", "default after side"),
    ]
    replay()
    assert cuda.said[-1] == "replay"
    # A graph works on tensors that nothing else may keep.
    assert replay.step == cuda.step


def test_a_step_that_waits_for_the_device_is_not_captured(cuda):
    def waits():
        if cuda.said[-1] == "sync error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        graphs.capture(waits)
    assert cuda.said[-1] == "sync default" and cuda.stream_now == "default"


def test_a_graph_whose_capture_breaks_off_is_kept(cuda, monkeypatch):
    monkeypatch.setattr(graphs, "_BROKEN", [])

    def breaks():
        if cuda.said[-1].startswith("capture"):
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        graphs.capture(breaks)
    assert len(graphs._BROKEN) == 1 and cuda.stream_now == "default"


def test_a_graph_needs_a_device():
    def prepare():
        raise AssertionError("nothing is built for it")

    with pytest.raises(Unavailable, match="need a device"):
        methods.captured(prepare, "cpu")


# Two times of a step ----------------------------------------------------------------------------


@pytest.fixture
def timed(cuda, monkeypatch):
    """A call from Python takes 5 s, a replay 6 s; the step called `waits` cannot be captured."""
    waits = cuda.step

    def capture(step, calls, pool):
        if step == waits:
            raise RuntimeError("no graph\nof this")
        return graphs.Replay(SimpleNamespace(replay=lambda: None), step)

    def interleave(steps, *_):
        return {
            name: times(6.0 if isinstance(step, graphs.Replay) else 5.0)
            for name, step in steps.items()
        }

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(methods, "interleave", interleave)
    return waits


def test_a_graph_of_short_steps_holds_several():
    assert methods._calls(30.0) == 1
    assert methods._calls(methods.LONG / 4) == 4
    assert methods._calls(1e-6) == methods.MOST_CALLS


def test_a_replay_is_the_time_of_the_device_for_each_of_its_calls(timed, capsys, monkeypatch):
    steps = {"a": lambda: None, "waits": timed}
    monkeypatch.setattr(methods, "_calls", lambda seconds: int(seconds) - 1)
    found = methods.time_on_device(steps, "cuda", 3, 1, repeats=7)
    assert found["a"] == methods.Timed(times(1.5), times(5.0))
    note = "called from Python: RuntimeError: no graph"
    assert found["waits"] == methods.Timed(times(5.0), times(5.0), note)
    assert "of this" in capsys.readouterr().err
    assert methods.time_on_device(steps, "cpu", 3, 1, 4)["a"] == methods.Timed(times(5.0))


def test_rows_show_both_times(timed, monkeypatch):
    monkeypatch.setattr(methods, "copy_method", lambda *_: _method("copy", lambda: None))
    group = methods.Group(
        "s", 1000, [_method("ours", lambda: None), _method("peer", timed)], "cuda"
    )
    (ours, eager), (peer, _), _ = methods.measure_on_device(group, 3, repeats=4)
    assert (ours.ms, eager, ours.note, ours.share_of_copy) == (6000, 5000, "", 1)
    assert (peer.ms, peer.note) == (5000, "called from Python: RuntimeError: no graph")
    cells = operators.cells(ours, eager)
    assert list(cells)[6:8] == ["ms", "eager_ms"] and cells["eager_ms"] == 5000
    on_cpu = methods.measure_on_device(replace(group, device="cpu"), 3)
    assert [eager for _, eager in on_cpu] == [None] * 3


def _method(label, step, backend="b"):
    return methods.Method(label, label, methods.BOTH, "float32", backend, 8, lambda: step, "ours")


def test_a_layer_shows_both_times(timed, monkeypatch):
    monkeypatch.setattr(convolutions.qat_layers, "ours", lambda *_: lambda: None)
    monkeypatch.setattr(convolutions.qat_layers, "torchs", lambda *_: timed)
    site = next(iter(convolutions.qat_layers.every("efficientnet-b0", 2, 32)))
    row = convolutions.layer_row(site, 1, Settings("cuda", False, ""), copy=1e9, macs=1e12)
    assert (row["ms"], row["eager ms"], row["torch ms"]) == (6000, 5000, 5000)
    assert row["note"] == "torch called from Python: RuntimeError: no graph"


def test_the_preferred_backend_comes_first_and_again_beside_the_others():
    found = [_method("ours", None), _method("peer", None), _method("ours", None, "triton")]
    found += [_method("else", None, "triton")]
    first, second = operators.parted(methods.Group("s", 8, found), ["triton"])
    assert first.methods == found[:2]
    assert second.methods == [found[0], *found[2:]]
    assert operators.parted(first, ["triton"])[1].methods == []


def test_other_backends_and_compiled_peers_come_after_all_that_is_preferred(monkeypatch):
    monkeypatch.setattr(operators.ours, "backends", lambda *_: ["native", "triton", "reference"])
    found = list(operators.groups(Settings("cuda", False, "")))
    late = [{m.backend for m in group.methods} & {"triton", "inductor"} for group in found]
    others = sum(map(len, late))
    assert late[:-others] == [set()] * (len(late) - others)
    assert late[-others:] == [{"triton"}] * (others - 2) + [{"inductor"}] * 2
    assert all(found[-1].methods[0].backend == "native" for group in found[-others:])


# A training step --------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json")


def _row(form, ms, share):
    return {"form": form, "ms": ms, "x SiLU": share, "peak, x SiLU": 0.4, "note": ""}


def test_the_faster_of_ours_is_the_figure(record):
    rows = [_row(SILU, 80, 1.0), _row(FIGURED, 240, 3.0)]
    rows += [_row(GRAPHED[SILU], 64, 0.8), _row(GRAPHED[FIGURED], 96, 1.2)]
    record.table("Steps", rows[:2])
    training_step.record_figures(record)
    assert record.found.figures["qat_step_vs_plain_bf16"] == 3.0
    record.table("Steps", rows)
    training_step.record_figures(record)
    assert record.found.figures == {"qat_step_vs_plain_bf16": 1.2, "qat_memory_vs_plain_bf16": 0.4}
    note = training_step.note_of_speed(rows)
    assert note.startswith("Figures: `micronet-recompute-depthwise, graph` over `plain-silu`")
    assert note.endswith("Graph over graph: 1.500.")
    failed = [*rows[:2], _row(GRAPHED[FIGURED], None, None)]
    assert "`micronet-recompute-depthwise` over" in training_step.note_of_speed(failed)
    assert "not compared" in training_step.note_of_speed(failed)


def test_kernels_stand_in_the_rows_of_their_group(record, monkeypatch):
    group = training_step.GROUPS[0]
    for number in (1, 2):
        record.row("Steps", {"group": number, "form": SILU, "kernels ms": None})
    record.row("Steps", {"group": 1, "form": OURS, "kernels ms": None})

    def kernels(form, device):
        if form == "fails":
            raise RuntimeError("no profiler")
        return [kernel_times.KernelTime("a", 1, 2.0), kernel_times.KernelTime("b", 1, 3.0)]

    monkeypatch.setattr(training_step, "kernel_times", kernels)
    training_step.add_kernels(group, {SILU: "form", OURS: "fails"}, record)
    assert [row["kernels ms"] for row in record.found.tables["Steps"]] == [5.0, None, None]
    (note,) = record.found.notes
    assert note == f"The kernels of `{OURS}` were not counted: RuntimeError: no profiler"


def test_graphs_come_right_after_what_they_are_made_of():
    first, second = training_step.PARTS[0]
    assert second == (SILU, *(f"{name}, graph" for name in first))
    assert not any(forms.is_compiled(name) for name in second)
    assert "`micronet` replayed" in forms.what(GRAPHED[OURS])
    assert forms.weigh(GRAPHED[OURS], lambda: None, "cuda") == (None, None)


def test_a_stage_counts_down_to_when_it_is_killed():
    ends = time.monotonic() + 50
    given = Settings.from_json(Settings("cpu", True, "", ends=ends).as_json())
    assert given.ends == ends and 49 < given.left() <= 50
