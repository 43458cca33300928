"""The benchmark of the engine: arithmetic, what is missing, and a short run of it all."""

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from benchmarks.engine import __main__ as bench
from benchmarks.engine import process, settings, table
from benchmarks.engine.settings import B1, COMPILED, LITERT, OPENVINO, OURS, Job, Setting
from benchmarks.engine.table import Row
from benchmarks.engine.turns import Timed
from engine_programs import program
from micronet.utils.errors import UserError
from paths import ROOT

ONE, TWO = Setting(B1, 1, 1), Setting(B1, 2, 8)
RESULTS = ROOT / "benchmarks" / "results"


def row(setting, engine, bits, ms, note=""):
    seconds = [] if ms is None else [ms / 1e3]
    return table.row_of(Timed(Job(engine, setting, bits, "."), "1.0", note, seconds, seconds))


# Arithmetic ---------------------------------------------------------------------------------------


def test_a_row_has_the_median_of_all_runs():
    seconds = [number / 1e3 for number in range(11, 0, -1)]
    busy = [number / 2e3 for number in range(1, 12)]
    found = table.row_of(Timed(Job(OURS, ONE, "4/4", "."), "avx2", "", seconds, busy))
    assert (found.ms, found.p10_ms, found.p90_ms, found.least_ms, found.runs) == (6, 2, 10, 1, 11)
    assert found.processor_ms == 3


def test_a_ratio_is_the_peers_time_over_ours():
    rows = [row(ONE, OURS, "4/4", 4.0), row(ONE, OURS, "8/8", 5.0), row(ONE, LITERT, "8", 10.0)]
    assert table.ratio(rows, ONE, LITERT, "4/4") == pytest.approx(2.5)
    assert table.ratio(rows, ONE, LITERT, "8/8") == pytest.approx(2.0)
    assert table.ratio(rows, ONE, OURS, "8/8") is None
    assert table.ratio(rows, ONE, OPENVINO, "4/4") is None
    assert table.ratio(rows, TWO, LITERT, "4/4") is None
    assert table.ratio([row(ONE, OURS, "4/4", None), rows[2]], ONE, LITERT, "4/4") is None
    assert table.ratio([rows[0], row(ONE, LITERT, "8", None)], ONE, LITERT, "4/4") is None


FIGURES = [
    *("b1_t1_ms", "b1_t1_vs_litert", "b1_t1_vs_openvino", "b8_t2_vs_litert", "b8_t2_vs_openvino"),
    *("payload_bits", "scored_bits", "load_ms", "resident_mb"),
]


def test_the_figures_are_those_of_their_rows():
    rows = [
        *(row(ONE, OURS, "4/4", 4.0), row(ONE, LITERT, "8", 10.0), row(ONE, OPENVINO, "8", 14.0)),
        *(row(TWO, OURS, "4/4", 20.0), row(TWO, LITERT, "8", 30.0)),
        row(TWO, OPENVINO, "8", None, "it ended with code 1"),
    ]
    made = {B1: {"forms": {"4/4": {"payload_bits": 7, "scored_bits": 8.0}}}}
    found = table.summarize(rows, made, {"load_ms": 5.5, "resident_mb": 20.0})
    assert list(found) == FIGURES
    assert list(found.values()) == [4.0, 2.5, 3.5, 1.5, None, 7, 8.0, 5.5, 20.0]
    assert set(table.summarize([], {}, {}).values()) == {None}


def test_the_page_says_what_is_missing():
    rows = [row(ONE, OURS, "4/4", 4.0), row(ONE, LITERT, "8", None, "not installed")]
    page = table.markdown(rows, {"b1_t1_ms": 4.0}, {"cores": "2"})
    assert "| micronet 1.0 | 4/4 | 4.00 | 4.00-4.00 | 4.00 | 4.00 |  |" in page
    assert "| LiteRT, XNNPACK 1.0 (not installed) | 8 |  |  |  |  |  |" in page
    assert "## efficientnet-b1, one thread, batch 1" in page and "- cores: 2" in page


# The command micronet-run -------------------------------------------------------------------------

HOLDS = """
import sys, time
assert sys.argv[1] == "--bench"
held = b"x" * {size}
time.sleep(float(sys.argv[2]))
"""


def test_memory_is_the_commands_own(tmp_path):
    """Not this process', which is larger."""
    script = tmp_path / "model"
    size = 48 << 20
    script.write_text(HOLDS.format(size=size))
    held = b"y" * (200 << 20)
    found = process.resident_mib(process.Path(sys.executable), script)
    assert 48 < found < 100 and len(held) > 2 * size


def test_a_command_that_fails_has_no_figures(tmp_path):
    failing = program(tmp_path / "fails", "#!/bin/sh\nexit 2\n")
    for measure in (process.load_ms, process.resident_mib):
        with pytest.raises(subprocess.CalledProcessError):
            measure(failing, tmp_path)


def test_opening_is_timed_in_milliseconds(tmp_path):
    sleeping = program(tmp_path / "sleeps", "#!/bin/sh\nsleep 0.05\n")
    assert 50 < process.load_ms(sleeping, tmp_path, openings=3) < 5000


# The driver ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--networks", "resnet19"], "--networks: 'resnet19' is not one"),
        (["--engines", "tflite"], "--engines: 'tflite' is not one"),
        (["--rounds", "0"], "--rounds must be 1 or more, not 0"),
        (["--program", "no/such"], "--program: 'no/such' is no file"),
    ],
)
def test_wrong_options_are_named(arguments, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        bench.check(bench.parser().parse_args(arguments))


def test_what_needs_more_cores_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda _: {0})
    args = bench.parser().parse_args(["--folder", str(tmp_path)])
    rows = bench.rows_of(TWO, args)
    assert {row.note for row in rows} == {"not measured: 2 threads on 1 core"}
    assert {row.engine for row in rows} == set(settings.ENGINES)


@pytest.mark.slow
def test_a_short_run_of_a_tiny_network_without_peers(no_peers, tmp_path, capsys):
    options = ["--networks", "resnet20", "--engines", OURS, LITERT, COMPILED, "--rounds", "1"]
    folders = ["--folder", str(tmp_path / "build"), "--results", str(tmp_path)]
    assert bench.main([*options, *folders]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert list(json.loads(last.removeprefix("RESULT "))) == FIGURES
    record = json.loads((tmp_path / "engine_cpu.json").read_text())
    rows = {(row["engine"], row["threads"]): row for row in record["rows"]}
    assert rows[OURS, 1]["ms"] > 0 and rows[OURS, 1]["runs"] > 1
    assert rows[LITERT, 1]["note"].startswith("not installed")
    assert rows[COMPILED, 1]["note"] == bench.NOT_COMPILED
    profile = json.loads((tmp_path / "engine_profile.json").read_text())
    known = json.loads((tmp_path / "build" / "networks.json").read_text())["resnet20"]
    done = sum(step["multiply_adds"] for step in profile["ours"])
    assert done == sum(known["multiply_adds"].values()) == 40551040
    assert known["forms"]["4/4"]["payload_bits"] == known["forms"]["4/4"]["scored_bits"]
    assert "LiteRT is not installed" in (tmp_path / "engine_profile.md").read_text()


# What is committed --------------------------------------------------------------------------------


def test_the_committed_page_is_that_of_its_rows():
    record = json.loads((RESULTS / "engine_cpu.json").read_text())
    rows = [Row(**row) for row in record["rows"]]
    settings_ = [Setting(name, *shape) for name in settings.IN_TABLE for shape in settings.SHAPES]
    wanted = [job for each in settings_ for job in settings.jobs(each, settings.ENGINES, ROOT)]
    found = [(row.setting, row.engine, row.bits) for row in rows]
    assert sorted(map(str, found)) == sorted(
        str((job.setting, job.engine, job.bits)) for job in wanted
    )
    assert all((row.ms is None) == bool(row.note) for row in rows)
    summary = record["summary"]
    again = table.summarize(rows, {}, {})
    kept = {name: summary[name] for name in FIGURES[5:]}
    assert {**again, **kept} == summary
    # The file holds what the challenge counts, bit for bit.
    assert summary["payload_bits"] == summary["scored_bits"] > 0
    page = (RESULTS / "engine_cpu.md").read_text()
    assert table.markdown(rows, summary, record["machine"]) == page


def test_the_committed_versions_are_those_that_are_installed():
    lines = settings.REQUIREMENTS.read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    record = json.loads((RESULTS / "engine_cpu.json").read_text())
    measured = {row["engine"]: row["version"] for row in record["rows"] if row["ms"] is not None}
    for engine, package in settings.PEERS.items():
        assert measured[engine] == pinned[package]


def test_rows_survive_being_written():
    found = row(ONE, OURS, "4/4", 4.0)
    assert Row(**json.loads(json.dumps(asdict(found)))) == found
