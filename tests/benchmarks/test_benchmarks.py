"""The harness of the benchmarks, at tiny sizes: what it times, what it divides, what it writes."""

import gc
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import methods, report, shapes, timing
from benchmarks.kernels import activation, fake_quant, weights
from paths import ROOT

FIGURES = [
    "act_fb_vs_torch_fused_warm",
    "act_fb_vs_torch_fused_default",
    "act_fb_share_of_copy",
    "act_fb_vs_compile",
    "act_fb_vs_eager_inplace",
    "weight_b1_vs_torch",
    "saved_bytes_per_element",
]


# Timing -----------------------------------------------------------------------------------------


def test_steps_take_turns_and_warm_up_rounds_are_not_counted(monkeypatch):
    clock, ran = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def step(name, seconds):
        def run():
            ran.append(name)
            # The first two rounds are slow.
            clock[0] += 100 if len(ran) <= 4 else seconds

        return run

    times = timing.interleave({"a": step("a", 1), "b": step("b", 3)}, rounds=5, warmup=2)
    assert ran == ["a", "b"] * 7
    assert (times["a"].median, times["b"].median) == (1, 3)
    assert times["b"].p10 == times["b"].p90 == 3


def test_the_timer_waits_for_the_device(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def wait():
        clock[0] += 2

    assert timing.interleave({"a": lambda: None}, 3, 0, wait)["a"].median == 2


def test_percentiles():
    times = timing.Times.of([float(i) for i in range(11)])
    assert (times.p10, times.median, times.p90) == (1, 5, 9)


def test_the_collector_is_off_while_timing_and_on_again_after_an_error():
    seen = []
    timing.interleave({"a": lambda: seen.append(gc.isenabled())}, rounds=2, warmup=0)
    assert seen == [False, False] and gc.isenabled()

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        timing.interleave({"a": fail})
    assert gc.isenabled()


# Shapes -----------------------------------------------------------------------------------------


def test_shapes_are_those_of_the_network():
    assert len(shapes.weights()) == 116
    assert sum(map(math.prod, shapes.weights())) == 7_716_976
    found = shapes.activations()
    assert sum(found.values()) == 115  # every layer but the first
    assert next(iter(found)) == (16, 96, 112, 112) and found[16, 1280] == 1
    assert set(shapes.TIMED) <= set(found)


def test_an_activation_has_the_elements_that_were_asked_for():
    assert math.prod(fake_quant.shape_of(1 << 24)) == 1 << 24
    for elements in (0, -1024, 1000):
        with pytest.raises(ValueError, match="multiple"):
            fake_quant.shape_of(elements)


# Rows -------------------------------------------------------------------------------------------


def _times(monkeypatch, seconds):
    """Lets `measure` find the given medians, by label."""

    def interleave(steps, *_):
        return {name: timing.Times(*[seconds[name.split(",")[0]]] * 3) for name in steps}

    monkeypatch.setattr(methods, "interleave", interleave)


def _method(label, traffic, prepare=lambda: lambda: None):
    return methods.Method(label, label, methods.BOTH, "float32", "b", traffic, prepare, "ours")


def test_rates_shares_and_ratios(monkeypatch):
    _times(monkeypatch, {"ours": 2.0, "peer": 9.0, "copy": 1.0})
    group = methods.Group("s", 1000, [_method("ours", 12), _method("peer", 4)])
    mine, peer, copy = methods.measure(group)
    assert (mine.ms, mine.gb_per_s, mine.ratio) == (2000, 6e-6, 1)
    assert mine.share_of_copy == 6 / 8
    assert peer.ratio == 4.5
    assert copy.share_of_copy == 1 and copy.ratio is None


def test_what_cannot_run_is_a_row_that_says_why(monkeypatch):
    def missing():
        raise methods.Unavailable("not here")

    _times(monkeypatch, {"ours": 2.0, "copy": 1.0})
    group = methods.Group("s", 1000, [_method("ours", 12), _method("peer", 4, missing)])
    peer = methods.measure(group)[1]
    assert peer.note == "not here" and peer.ms is None and peer.ratio is None
    assert "(not here)" in report.markdown([peer])


def test_two_methods_of_one_name_are_refused():
    group = methods.Group("s", 1000, [_method("ours", 12), _method("ours", 12)])
    with pytest.raises(AssertionError, match="two methods"):
        methods.measure(group, rounds=2)


def test_the_least_traffic():
    assert activation.traffic("float32", 2) == 20.25
    assert activation.traffic("float32", 1) == 16.25
    assert activation.traffic("bfloat16", 2) == 10.25


def test_the_copy_copies(monkeypatch):
    for table in (methods.native.TABLE, {}):
        monkeypatch.setattr(methods.native, "TABLE", table)
        copy = methods.copy_method(1000, "cpu")
        assert copy.traffic == 8 and ("copy_" in copy.op)
        copy.prepare()()


# The command ------------------------------------------------------------------------------------


def _row(label, ratio, direction=methods.BOTH, share=0.5, dtype="float32"):
    return methods.Row(
        label, "op", direction, "s", dtype, "b", 1.0, 1.0, 1.0, 1.0, share, ratio, ""
    )


def test_headlines_are_the_worst_at_their_threads():
    fused, given, forward = activation.TORCH_FUSED, weights.TORCH_GIVEN, methods.FORWARD
    exact = [_row(activation.EXACT, 1.0, share=share) for share in (0.9, 0.8)]
    exact.append(_row(activation.EXACT, 1.0, share=0.1, dtype="bfloat16"))
    weight = [_row(given, 5.0, forward), _row(given, 2.0)]
    tables = [
        fake_quant.Table("warm", 2, [_row(fused, 9.0), _row(fused, 8.0), *exact, *weight], 0),
        fake_quant.Table("default", 2, [_row(fused, 7.0), _row(given, 4.0, forward)], 0),
        fake_quant.Table("warm", 1, [_row(fused, 1.0)], 0),
    ]
    tables[0].rows.append(_row(activation.COMPILED, None))
    found = fake_quant.summarize(tables, 2, 0.125)
    assert list(found) == FIGURES
    assert list(found.values()) == [8.0, 7.0, 0.8, None, None, 4.0, 0.125]


@pytest.mark.slow
def test_the_command_measures_each_setting_and_ends_with_one_line(tmp_path, capfd):
    words = ["--quick", "--threads", "1", "--backend", "reference", "--out", str(tmp_path)]
    assert fake_quant.main(words) == 0
    output = capfd.readouterr().out
    *_, last = output.splitlines()
    assert output.count("RESULT") == 1 and last.startswith("RESULT ")
    summary = json.loads(last.removeprefix("RESULT "))
    assert list(summary) == FIGURES
    missing = [name for name, value in summary.items() if value is None]
    assert missing == ["act_fb_vs_compile"] and summary["saved_bytes_per_element"] == 0.125

    record = json.loads((tmp_path / "fake_quant_cpu.json").read_text())
    assert record["summary"] == summary and "processor" in record["machine"]
    settings = {(row["allocator"], row["threads"]) for row in record["rows"]}
    assert settings == {("default", 1), ("warm", 1)}
    text = (tmp_path / "fake_quant_cpu.md").read_text()
    assert text.count("| copy |") == 6 and record["machine"]["processor"] in text


def test_each_setting_is_a_process_with_its_allocator(monkeypatch):
    ran = []

    def run(command, env, check, cwd):
        ran.append((command, env))
        answer = Path(command[command.index("--measure-into") + 1])
        answer.write_text(json.dumps({"rows": [], "kept_mib": 0}))

    monkeypatch.setattr(fake_quant.subprocess, "run", run)
    settings = fake_quant.Settings([2, 1], [1024], "reference", True, Path("unused"))
    for allocator in ("default", "warm"):
        fake_quant.measure_apart(settings, allocator, 2)
    (command, default), (_, warm) = ran
    assert command[command.index("--threads") + 1] == "2" and "--quick" in command
    assert default == {**os.environ, "OMP_NUM_THREADS": "2"}
    added = {name: value for name, value in warm.items() if default.get(name) != value}
    assert added == {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


@pytest.mark.slow
def test_the_bench_files_are_collected():
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for path in (ROOT / "benchmarks" / "kernels").glob("bench_*.py"):
        assert path.name in done.stdout
