"""What the stage of `make gpu` that profiles a step keeps of kernels and of ncu's counters."""

import dataclasses
import sys
import time

import pytest

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import profile
from benchmarks.harness.kernel_times import KernelTime

CPU = Settings("cpu", True, "unused")


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json")


def test_kernels_are_named_without_their_templates():
    name = profile.base_name
    assert (
        name("void micronet::(anonymous namespace)::round<float, 4>(float const*, int)") == "round"
    )
    assert name("void at::native::vectorized_elementwise_kernel<4, x>(int)") == (
        "vectorized_elementwise_kernel"
    )
    assert name("_fake_quant_kernel") == "_fake_quant_kernel"


NCU = """\
==PROF== Connected to process 1
"ID","Kernel Name","Grid Size","gpu__time_duration.sum","dram__bytes.sum"
"","","","us","Mbyte"
"0","void a::round<float>(int)","(1, 1, 1)","1.5","3"
"1","void a::round<float>(int)","(9, 1, 1)","1,204.5","80"
"2","pack(int)","(2, 1, 1)","2","n/a"
"""


def test_the_longest_launch_stands_for_a_kernel():
    first, second = profile.longest(NCU.splitlines())
    assert (first["kernel"], first["grid"], first["time (us)"]) == ("round", "(9, 1, 1)", 1204.5)
    assert first["DRAM bytes (Mbyte)"] == 80
    assert second["kernel"] == "pack" and second["DRAM bytes (Mbyte)"] == 0
    assert profile.longest(["==ERROR== no permission"]) == []


PRINTS = """\
import signal, sys, time
print("first", flush=True)
if sys.argv[1] == "asked":
    signal.signal(signal.SIGINT, lambda *_: (print("counted"), print("hal", end=""), sys.exit(1)))
elif sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(0 if sys.argv[1] == "ends" else 600)
"""


@pytest.mark.parametrize(
    ("how", "said", "ended"),
    [
        ("ends", "first\n", ""),
        ("asked", "first\ncounted\n", "stopped after 6 s"),
        ("deaf", "first\n", "stopped after 6 s"),
    ],
)
def test_a_counter_that_takes_too_long_keeps_its_whole_lines(how, said, ended, tmp_path):
    found = profile.run([sys.executable, "-c", PRINTS, how], tmp_path / "ncu.txt", 6)
    assert found == (said, ended)


def test_a_row_that_is_cut_short_has_no_numbers():
    (row,) = profile.longest(
        [*NCU.splitlines()[1:3], '"0","void a::round<float>(int)","(1, 1, 1)"']
    )
    assert row["kernel"] == "round" and row["time (us)"] == 0


@pytest.mark.parametrize(
    ("said", "ended", "note"),
    [
        (NCU, "", None),
        (NCU, "stopped after 9 s", "ncu did not come to its end: stopped after 9 s."),
        ("==ERROR== no permission\n", "exit code 1", "ncu did not work here: ==ERROR== no perm"),
        ("", "stopped after 9 s", "ncu did not work here: stopped after 9 s"),
    ],
)
def test_what_the_counter_printed_is_kept(said, ended, note, record, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(profile, "run", lambda *words: ran.append(words) or (said, ended))
    given = dataclasses.replace(CPU, scratch=str(tmp_path), ends=time.monotonic() + 60)
    profile.count(["pack<int>", "pack<float>", "round<a>"], given, record)
    (command, into, limit) = ran[0]
    assert "regex:^(pack|round)$" in command and into.parent == tmp_path and limit < 60
    assert len(record.found.tables.get("Counters", [])) == (2 if said == NCU else 0)
    assert [text.startswith(note) for text in record.found.notes] == ([True] if note else [])


def test_kernels_that_take_next_to_nothing_are_left_out(record, monkeypatch):
    kernels = [KernelTime(f"k{i}<int>", 2, 100.0 if i < 70 else 1.0) for i in range(80)]
    monkeypatch.setattr(profile, "training", lambda _: None)
    monkeypatch.setattr(profile, "kernel_times", lambda *_: kernels)
    assert profile.time_kernels(CPU, record) == [f"k{i}<int>" for i in range(5)]
    rows = record.found.tables["Kernels of a step"]
    assert len(rows) == profile.MOST_ROWS and sum(row["share"] for row in rows) < 1
    monkeypatch.setattr(profile, "kernel_times", lambda *_: kernels[60:])
    profile.time_kernels(CPU, record)
    assert len(record.found.tables["Kernels of a step"]) == 10
    assert record.found.notes[1] == "A step: 40 launches of 20 kernels, 1010 ms in all."
