"""What the stage of `make gpu` that profiles a step keeps of kernels and of ncu's counters."""

import dataclasses
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import profile
from benchmarks.harness import kernel_times
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
        ("asked", "first\ncounted\n", "stopped after 2 s"),
        ("deaf", "first\n", "stopped after 2 s"),
    ],
)
def test_a_counter_that_takes_too_long_keeps_its_whole_lines(
    how, said, ended, tmp_path, monkeypatch
):
    monkeypatch.setattr(profile, "GRACE", 2)
    # Without the packages of the environment, so that it starts at once.
    program = [sys.executable, "-I", "-S", "-c", PRINTS, how]
    found = profile.run(program, tmp_path / "ncu.txt", 2)
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


def test_a_counter_looks_at_the_first_blocks_both_ways(monkeypatch):
    monkeypatch.setattr(profile, "COUNTED_BATCH", 2)
    ran = []
    build = profile.qat_networks.build

    def built(name, size):
        found = build(name, size)
        for number, block in enumerate(found.network._blocks):
            block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
            weight = next(block.parameters())
            weight.register_post_accumulate_grad_hook(lambda _, number=number: ran.append(-number))
        return found

    monkeypatch.setattr(profile.qat_networks, "build", built)
    step = profile.counted(CPU)
    for _ in range(2):
        ran.clear()
        step()
        assert ran == [0, 1, 2, -2, -1, 0]


def test_kernels_that_take_next_to_nothing_are_left_out(record, monkeypatch):
    kernels = [KernelTime(f"k{i}<int>", 2, 100.0 if i < 70 else 1.0) for i in range(80)]
    monkeypatch.setattr(profile, "training", lambda _: None)
    everywhere = KernelTime("vectorized_elementwise_kernel<4>", 2, 100.0)
    monkeypatch.setattr(profile, "kernel_times", lambda *_: [everywhere, *kernels[1:]])
    # It is in the table, and nothing that a counter looks at.
    assert profile.time_kernels(CPU, record) == [f"k{i}<int>" for i in range(1, 6)]
    assert record.found.tables["Kernels of a step"][0]["kernel"] == everywhere.name
    record.found.notes.clear()
    monkeypatch.setattr(profile, "kernel_times", lambda *_: kernels)
    assert profile.time_kernels(CPU, record) == [f"k{i}<int>" for i in range(5)]
    rows = record.found.tables["Kernels of a step"]
    assert len(rows) == profile.MOST_ROWS and sum(row["share"] for row in rows) < 1
    monkeypatch.setattr(profile, "kernel_times", lambda *_: kernels[60:])
    profile.time_kernels(CPU, record)
    assert len(record.found.tables["Kernels of a step"]) == 10
    assert record.found.notes[1] == "A step: 40 launches of 20 kernels, 1010 ms in all."


# Kernels ----------------------------------------------------------------------------------------


def _event(name, ms, calls=1, device=DeviceType.CUDA, annotation=False):
    return SimpleNamespace(
        key=name,
        count=calls,
        device_type=device,
        is_user_annotation=annotation,
        self_device_time_total=1e3 * ms,
        self_cpu_time_total=1e3 * ms,
    )


def test_only_what_the_device_ran_counts_and_one_kernel_is_one_row():
    events = [
        _event("void a::pack<int>(int)", 1, 2),
        _event("void b::(anonymous namespace)::pack<int>(float)", 3),
        _event("Memcpy DtoD (Device -> Device)", 9),
        _event("cudaLaunchKernel", 50, device=DeviceType.CPU),
        _event("Optimizer.step#SGD.step", 60, annotation=True),
    ]
    assert kernel_times.merged(events, on_cpu=False) == [
        kernel_times.KernelTime("Memcpy DtoD (Device -> Device)", 1, 9.0),
        kernel_times.KernelTime("pack<int>", 3, 4.0),
    ]
    (call,) = kernel_times.merged(events, on_cpu=True)
    assert (call.name, call.ms) == ("cudaLaunchKernel", 50)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("void m::cuda::sums<m::swish, (m::Kind)1, true>(m::Args)", "sums<swish, (Kind)1, true>"),
        (
            "void at::f<at::copy(at::Base&)::{lambda()#3}, std::array<char*, 2ul> >(int, float)",
            "f<copy(Base&)::{lambda()#3}, array<char*, 2ul> >",
        ),
        ("sm90_xmma_gemm_bf16", "sm90_xmma_gemm_bf16"),
        ("aten::copy_", "aten::copy_"),
    ],
)
def test_short_names_keep_template_arguments(kernel, name):
    assert kernel_times.short_name(kernel) == name


def test_a_step_on_the_cpu_has_operators():
    x = torch.ones(4)
    found = kernel_times.kernel_times(lambda: x + x, "cpu")
    assert [kernel.name for kernel in found] == ["aten::add"] and found[0].calls == 1
