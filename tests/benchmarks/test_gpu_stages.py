"""What the stages of `make gpu` record, count and leave out, piece by piece."""

import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import time

import pytest
import yaml

from benchmarks.gpu import outcomes, report
from benchmarks.gpu.processes import FAILED, FINISHED, KILLED, LEFT_OUT, Outcome
from benchmarks.gpu.record import Findings, Record, read
from benchmarks.gpu.report import Report, Result
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import (
    cifar10,
    convolutions,
    device_tests,
    operators,
    training_step,
)
from benchmarks.gpu.table import FIGURES, STAGES
from benchmarks.harness import methods
from benchmarks.harness.timing import Times
from benchmarks.qat import networks as qat_networks
from image_folders import make_folder

CPU = Settings("cpu", True, "unused")


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json")


# What is known ----------------------------------------------------------------------------------


def test_a_stage_that_is_killed_keeps_what_it_found(record):
    record.row("Times", {"what": "a", "ms": 1.5})
    record.figure("speed", 0.5)
    record.missing("other", "no time")
    record.note("half of it")
    assert read(record.path) == record.found
    assert not record.path.with_suffix(".tmp").exists()
    assert read(record.path.with_name("none.json")) == Findings()


def test_a_stage_replaces_the_rows_of_what_goes_on(record):
    record.row("Bits", {"images": 50})
    record.table("Bits", [{"images": 100}])
    assert read(record.path).tables == {"Bits": [{"images": 100}]}


def _result(letter, outcome, **found):
    stage = next(stage for stage in STAGES if stage.letter == letter)
    return Result(stage, outcome, Findings(**found))


PARTIAL = [
    _result("a", Outcome(FINISHED, 9), figures={"tests_failed": 0}),
    _result("b", Outcome(FAILED, 9, "exit code 1: no kernel")),
    _result(
        "d", Outcome(KILLED, 150, "stopped at its limit"), figures={"qat_step_vs_plain_bf16": 0.7}
    ),
    _result("e", Outcome(FINISHED, 9), missing={"bit_identical": "no device"}),
    _result("f", Outcome(LEFT_OUT, 0, "no time was left")),
]


def test_a_figure_is_there_or_says_why_it_is_not():
    summary, why = report.summarize(PARTIAL), report.missing(PARTIAL)
    assert tuple(summary) == FIGURES
    assert {name for name, value in summary.items() if value is None} == set(why)
    assert (summary["tests_failed"], summary["qat_step_vs_plain_bf16"]) == (0, 0.7)
    assert why["fake_quant_share_of_copy"] == "stage b failed: exit code 1: no kernel"
    assert why["qat_memory_vs_plain_bf16"] == "stage d killed: stopped at its limit"
    assert why["bit_identical"] == "no device"
    assert why["cifar10_qat_top1"] == "stage f left out: no time was left"
    without = report.missing(PARTIAL[:1])
    assert without["cifar10_qat_top1"] == "stage f was not asked for or not reached"


def test_both_files_are_written_after_each_stage(tmp_path):
    facts = {"device": "a chip", "nvcc": "13.0"}
    known = Report("python -m benchmarks.gpu", facts, Outcome(FINISHED, 60), PARTIAL)
    report.write(tmp_path, known)
    page, found = (tmp_path / "gpu.md").read_text(), json.loads((tmp_path / "gpu.json").read_text())
    assert page.startswith("# Measured on a chip\n") and "- nvcc: 13.0" in page
    assert found["machine"] == facts and len(found["stages"]) == len(PARTIAL)
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.md", "gpu.json"}
    assert not report.is_whole(known)
    assert report.is_whole(Report("", facts, Outcome(FINISHED, 60), PARTIAL[:1]))


def test_tables_show_rows_of_the_same_keys():
    rows = [
        {"what": "a|b", "ms": 0.123456, "n": 12345, "same": True, "text": "long"},
        {"what": "c\nd", "ms": None, "n": 1, "same": False, "text": ""},
    ]
    assert report.table(rows) == [
        "| what | ms | n | same |",
        "|---|--:|--:|--:|",
        "| a\\|b | 0.1235 | 12,345 | yes |",
        "| c d |  | 1 | no |",
    ]


# Tests on the device ----------------------------------------------------------------------------

TESTS = """\
import pytest

def test_good(): pass
def test_skipped(): pytest.skip("why")
def test_bad(): assert 1 == 2, "more"
def test_worse(absent): pass
def test_slow():
    import time
    time.sleep(600)
"""


def outcomes_of(tmp_path, chosen, limit):
    """Run some of those tests as the stage runs its own; return its sentence and the results."""
    (tmp_path / "test_some.py").write_text(TESTS)
    into = tmp_path / "tests.jsonl"
    plugins = ["-p", "benchmarks.gpu.outcomes", "-p", "xdist.plugin", "-n", "1"]
    words = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *plugins, "-k", chosen]
    over = device_tests.run([*words, str(tmp_path / "test_some.py")], into, limit)
    return over, sorted(outcomes.read(into), key=lambda result: result.test)


def test_failures_and_errors_are_counted_and_kept_in_full(record, tmp_path):
    over, results = outcomes_of(tmp_path, "not slow", 60)
    assert over == ""
    assert [result.outcome for result in results] == ["failed", "passed", "skipped", "failed"]
    assert device_tests.record_part("some", results, 1.5, over, record) == 2
    counts = {"tests": 4, "failed": 2, "skipped": 1, "seconds": 1.5, "note": ""}
    assert record.found.tables["Tests"] == [{"part": "some", **counts}]
    bad, worse = record.found.tables["Failures"]
    assert bad["test"].endswith("::test_bad") and "more assert 1 == 2" in bad["message"]
    assert "def test_bad()" in bad["text"] and "fixture 'absent' not found" in worse["text"]


def test_tests_that_are_stopped_keep_what_they_found(tmp_path, monkeypatch):
    class Begun(subprocess.Popen):
        """A process once its first result is written: how long it takes to start is no limit's."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            while self.poll() is None and not list(outcomes.read(tmp_path / "tests.jsonl")):
                time.sleep(0.05)

    monkeypatch.setattr(subprocess, "Popen", Begun)
    over, results = outcomes_of(tmp_path, "bad or slow", 1)
    assert over == "stopped after 1 s"
    assert [result.outcome for result in results] == ["failed"]


def test_a_test_that_was_being_written_down_at_the_end_is_left_out(tmp_path):
    path = tmp_path / "tests.jsonl"
    assert list(outcomes.read(path)) == []
    line = json.dumps({"test": "a", "outcome": "passed", "seconds": 1.0, "text": ""})
    path.write_text(line + "\n" + line[:9])
    assert list(outcomes.read(path)) == [outcomes.Result("a", "passed", 1.0)]


@pytest.mark.parametrize(
    ("over", "results", "why"),
    [
        ("", [], "native and training: no test was found"),
        ("stopped after 9 s", ["passed"], "native and training: stopped after 9 s"),
    ],
)
def test_a_device_without_all_tests_is_no_success(
    over, results, why, record, tmp_path, monkeypatch
):
    found = [outcomes.Result("a", outcome, 1.0) for outcome in results]
    monkeypatch.setattr(device_tests, "PARTS", {"native and training": "not triton"})
    monkeypatch.setattr(device_tests, "run", lambda *_: over)
    monkeypatch.setattr(outcomes, "read", lambda _: found)
    device_tests.measure(Settings("cuda", False, str(tmp_path)), record)
    assert record.found.missing == {"tests_failed": why} and not record.found.figures


def test_all_parts_of_the_tests_end_before_the_stage_is_killed(record, tmp_path, monkeypatch):
    clock, limits = [100.0], []

    def run(command, into, limit):
        limits.append(limit)
        clock[0] += 30
        # What is known of a part is written before the next one begins.
        assert len(read(record.path).tables.get("Tests", [])) == len(limits) - 1
        return ""

    monkeypatch.setattr(device_tests.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(device_tests, "run", run)
    device_tests.measure(Settings("cuda", False, str(tmp_path), ends=180), record)
    assert limits == [80 - device_tests.REST, 50 - device_tests.REST]


def test_tests_of_a_device_are_shared_out():
    words = device_tests.commands(Settings("cuda", False, ""))["Triton"]
    assert "xdist.plugin" in words and words[words.index("-m", 2) + 1] == "gpu or device"
    assert {"tests/kernels/test_gpu.py", "tests/kernels/test_triton.py"} <= set(words)
    assert "tests/training/test_no_waiting.py" in words
    assert "tests/kernels/test_codes.py" not in words
    assert "tests/training/test_emulated_training.py" not in words


# Measurements -----------------------------------------------------------------------------------


def test_a_kernel_that_fails_is_a_row_that_says_why(record, monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(operators.activation.ours, "exact", refuse)
    monkeypatch.setattr(operators, "groups", lambda _: list(_first_group()))
    operators.measure(CPU, record)
    rows = [row for row in record.found.tables["Operators"] if row["label"] == "exact range"]
    assert rows and {row["note"] for row in rows} == {"RuntimeError: no kernel image"}
    assert "fake_quant_share_of_copy" in record.found.missing
    assert "for this device" in capsys.readouterr().err


def _first_group():
    shape = (16, 64, 4)
    own = operators.activation.our_methods(shape, "cpu", "reference")
    yield operators.activation.group(shape, "cpu", own)


def test_a_layer_that_fails_keeps_its_bytes_and_roofline(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(convolutions.qat_layers, "ours", refuse)
    site = next(
        s for s in convolutions.qat_layers.every("efficientnet-b0", 2, 32) if s.is_depthwise
    )
    row = convolutions.layer_row(site, 1, CPU, copy=1e9, macs=1e12)
    assert row["note"] == "RuntimeError: no kernel image" and row["ms"] is None
    moved = convolutions.qat_layers.moved_bytes(site)
    assert row["roofline ms"] == pytest.approx(1e3 * max(moved / 1e9, site.macs / 1e12))


def test_what_is_unavailable_stays_so():
    def missing():
        raise methods.Unavailable("not installed")

    with pytest.raises(methods.Unavailable, match=r"^not installed$"):
        methods.tried(missing, "cpu")


def test_forms_are_compared_with_plain(record):
    times = {"plain-silu": Times(2.0, 2.0, 2.0), training_step.FIGURED: Times(1.0, 1.0, 1.0)}
    memory = {
        "plain-silu": training_step.Weight(8, 10),
        training_step.FIGURED: training_step.Weight(2, 4),
    }
    row = training_step.numbers(training_step.FIGURED, times, memory)
    assert list(row.values()) == [1000, 0.5, 2, 4, 0.4, ""]
    record.row("Steps", {"form": training_step.FIGURED, **row})
    training_step.record_figures(record)
    assert record.found.figures == {"qat_step_vs_plain_bf16": 0.5, "qat_memory_vs_plain_bf16": 0.4}


def test_without_plain_the_figures_say_why(record):
    row = training_step.numbers(
        training_step.FIGURED,
        {training_step.FIGURED: Times(1.0, 1.0, 1.0)},
        {training_step.FIGURED: training_step.Weight(2, 4)},
    )
    record.row("Steps", {"form": training_step.FIGURED, **row})
    training_step.record_figures(record)
    assert set(record.found.missing.values()) == {"plain was not measured: see the table"}


@pytest.mark.parametrize("name", ["plain", "micronet", training_step.FIGURED, "torch-fused"])
def test_forms_train_in_bfloat16(name):
    size = qat_networks.Size("efficientnet-micro", 2, 32, "cpu", "bf16")
    training = qat_networks.build(name, size)
    assert bool(training().isfinite())
    assert bool(training().isfinite())


# CIFAR-10 ----------------------------------------------------------------------------------------


def test_recipes_are_cut_down_to_the_time(tmp_path):
    recipes = {
        "fit": {"train": {"epochs": 14}},
        "prune": {"train": {"epochs": 8}, "prune": {"end_epoch": 4}},
    }
    assert cifar10.affordable(recipes, epoch=2.0, seconds=100) == 1
    assert cifar10.affordable(recipes, epoch=2.0, seconds=22) == 0.5
    assert cifar10.affordable(recipes, epoch=2.0, seconds=-1) == 0
    half = yaml.safe_load(cifar10.part(recipes["prune"], 0.5, tmp_path).read_text())
    assert half == {"train": {"epochs": 4}, "prune": {"end_epoch": 2}}
    least = yaml.safe_load(cifar10.part(recipes["fit"], 0.0, tmp_path).read_text())
    assert least == {"train": {"epochs": 1}}


def test_cifar10_comes_from_a_folder_or_a_tar(tmp_path):
    folder = make_folder(tmp_path / "data", 12)
    given = dataclasses.replace(CPU, cifar10=str(folder))
    assert cifar10.source_of(given, tmp_path)[:2] == ["--data", str(folder)]
    with tarfile.open(tmp_path / "data.tar.xz", "w:xz") as archive:
        archive.add(folder, "cifar10")
    given = dataclasses.replace(CPU, cifar10=str(tmp_path / "data.tar.xz"))
    found = cifar10.source_of(given, tmp_path / "scratch")[1]
    assert found == str(tmp_path / "scratch" / "data" / "cifar10")
    assert cifar10.source_of(CPU, tmp_path)[:2] == ["--data", "digits"]
