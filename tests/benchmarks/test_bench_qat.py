"""The benchmark of training steps, at tiny sizes: its peers, its counts, what it writes."""

import copy
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import prepared_processes
from benchmarks.harness.methods import Unavailable
from benchmarks.qat import layers as qat_layers
from benchmarks.qat import memory as qat_memory
from benchmarks.qat import networks as qat_networks
from benchmarks.qat import peers as qat_peers
from benchmarks.qat import report as qat_report
from benchmarks.qat import sites as qat_sites
from benchmarks.qat import step as qat_step
from benchmarks.qat.report import MemoryRow, Results, StepRow
from paths import ROOT

FIGURES = [
    "step_vs_plain_silu",
    "step_vs_compiled",
    "step_vs_compiled_qat",
    "saved_4_4",
    "saved_8_8",
    "saved_lsq",
    "saved_recompute",
    "rss_vs_plain",
]
SIZE = qat_networks.Size("efficientnet-micro", 2, 32)
EAGER = [name for name, variant in qat_networks.VARIANTS.items() if not variant.compiled]


# Forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EAGER)
def test_forms_train(name):
    training = qat_networks.build(name, SIZE)
    before = copy.deepcopy(list(training.network.parameters()))
    losses = [float(training()) for _ in range(2)]
    assert all(map(math.isfinite, losses))
    after = training.network.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_compiled_computes_without_the_compiler():
    network = qat_networks.network(SIZE.arch)
    bits = qat_networks.precisions(network)
    qat_peers.round_layers_(network, bits, qat_peers.STRAIGHT_THROUGH)
    training = qat_networks.Training(network, SIZE)
    assert all(math.isfinite(float(training())) for _ in range(2))


def test_peers_quantize_the_layers_that_ours_quantizes():
    network = qat_networks.network(SIZE.arch)
    bits = qat_networks.precisions(network)
    qat_peers.round_layers_(network, bits, qat_peers.TORCH_FUSED)
    rounded = {n: m for n, m in network.named_modules() if isinstance(m, qat_peers.Rounded)}
    assert set(rounded) == {name for name in bits if name != "_conv_stem"}
    assert [n for n, m in rounded.items() if m.of_input is None] == ["_fc"]
    assert bits["_fc"].weight_levels == 5


def test_rounding_straight_through_passes_the_gradient_inside_the_range():
    x = torch.tensor([[-2.0, -0.9, 0.0, 0.4, 1.1, 3.0]], requires_grad=True)
    lowest, highest = torch.tensor(-1.0), torch.tensor(2.0)
    y = qat_peers._round_straight_through(x, lowest, highest, 4)
    y.sum().backward()
    assert y.tolist() == [[-1, -1, 0, 0, 1, 2]]
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 0]]


def test_padding_by_numbers_changes_nothing():
    network = qat_networks.network(SIZE.arch).eval()
    image = torch.randn(1, 3, 32, 32)
    expected = network(image)
    qat_peers._pad_by_numbers_(network, image)
    assert not any("SamePadding" in type(module).__name__ for module in network.modules())
    torch.testing.assert_close(network(image), expected)


def test_a_torch_without_fx_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.ao.quantization.quantize_fx", None)
    with pytest.raises(Unavailable, match="no quantize_fx"):
        qat_networks.build("torch-fx", SIZE)


def test_a_failing_compiler_is_a_reason(monkeypatch):
    def fail():
        raise RuntimeError("no compiler\nand more")

    with pytest.raises(Unavailable, match=r"inductor: RuntimeError: no compiler$"):
        qat_networks.compile_now("compiled-qat", fail)
    qat_networks.compile_now("plain", fail)


# Memory -----------------------------------------------------------------------------------------


def test_saved_bytes_of_a_chain_are_those_counted_by_hand():
    n, features, hidden = 8, 16, 32
    chain = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 4))
    x = torch.randn(n, features)
    # The input; the output of the activation, once, though two layers keep it; no weight.
    expected = 4 * n * (features + hidden)
    assert qat_memory.saved_bytes(lambda: chain(x).sum(), chain.parameters()) == expected
    assert all(p.grad is not None for p in chain.parameters())


# In a process of its own: one that has freed much memory may keep it, and then nothing rises.
PEAK = """\
import torch
from benchmarks.qat import memory as qat_memory
held, kept = torch.ones(1 << 22), []
def step():
    kept.append(torch.ones(1 << 23))
    kept.clear()
print(qat_memory.peak_above_start(step))
"""


@pytest.mark.slow
def test_the_peak_is_above_the_start():
    command = [sys.executable, "-c", PEAK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 0.9 * 2**25 < int(done.stdout) < 4 * 2**25


# Sites ------------------------------------------------------------------------------------------


def test_sites_have_the_sizes_that_the_network_computes():
    network = qat_networks.network(SIZE.arch)
    found = qat_sites.sites(network, torch.zeros(2, 3, 32, 32))
    outputs = {}
    for name in found:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, y, name=name: outputs.update({name: tuple(y.shape)})
        )
    with torch.no_grad():
        network(torch.zeros(2, 3, 32, 32))
    assert {name: site.output_size for name, site in found.items()} == outputs


def test_the_chosen_layers_of_b1():
    found = qat_layers.chosen("efficientnet-b1", 16, 224)
    kinds = [kind for kind, _ in found.values()]
    assert kinds.count(qat_layers.POINTWISE) == 10
    depthwise = [count for kind, count in found.values() if kind == qat_layers.DEPTHWISE]
    assert sum(depthwise) == 23  # one in each block


@pytest.mark.parametrize("stride, padding", [((1, 1), (1, 1, 1, 1)), ((2, 2), (0, 0, 1, 1))])
def test_both_convolutions_of_a_site_have_its_output(stride, padding):
    site = qat_sites.Site((2, 8, 6, 6), (8, 1, 3, 3), stride, padding, 8)
    sums, _ = qat_layers.ours(site)()
    assert sums.shape == qat_layers.torchs(site)().shape == site.output_size
    assert sums.dtype == torch.int16
    outputs = math.prod(site.output_size)
    assert qat_layers.moved_bytes(site) == 2 * 8 * 36 / 2 + 2 * outputs
    assert site.macs == 9 * outputs


# The command ------------------------------------------------------------------------------------


def test_groups_bound_the_memory_and_compile_only_where_asked():
    every = list(qat_networks.VARIANTS)
    assert tuple(qat_step.groups(every, True)) == qat_step.GROUPS
    assert qat_step.groups(every, False)[-1] == ("plain-compiled", "compiled-qat")
    assert qat_step.groups(["plain-silu", "micronet"], True) == [("plain-silu", "micronet")]
    assert qat_step.groups(["plain-silu"], True) == [("plain-silu",)]


def _step(group, variant, seconds, allocator="warm"):
    return StepRow(allocator, group, variant, seconds, seconds, seconds, 1.0)


def test_headlines_are_of_the_warm_allocator_within_a_group():
    steps = [
        _step(1, "plain-silu", 9.0, "default"),
        _step(1, "micronet", 1.0, "default"),
        _step(1, "plain-silu", 2.0),
        _step(1, "micronet", 3.0),
        _step(5, "micronet", 4.0),
        _step(5, "plain-compiled", 5.0),
        _step(5, "compiled-qat", 2.0),
    ]
    memory = [MemoryRow("plain", 8.0, 10.0, 1.0), MemoryRow("micronet", 2.0, 5.0, 1.0)]
    memory += [
        MemoryRow("micronet-8/8", 4.0, 6.0, 1.0),
        MemoryRow("micronet-learned", 3.0, 6.0, 1.0),
    ]
    found = qat_report.summarize(Results("", steps, memory, [], {}))
    assert list(found) == FIGURES
    assert list(found.values()) == [1.5, 0.8, 2.0, 0.25, 0.5, 0.375, None, 0.5]


def test_what_was_not_measured_is_none():
    row = StepRow("warm", 1, "compiled-qat", None, None, None, None, "not here")
    results = Results("", [_step(1, "micronet", 3.0), row], [], [], {})
    assert list(qat_report.summarize(results).values()) == [None] * 8
    assert "compiled-qat (not here)" in qat_report.markdown(results)


def test_two_rounds_at_least(capsys):
    with pytest.raises(SystemExit):
        qat_step.parse(["--rounds", "1"])
    assert "at least 2" in capsys.readouterr().err


def test_each_allocator_and_each_memory_has_a_process(monkeypatch):
    jobs = []
    monkeypatch.setattr(qat_step, "apart", lambda job: jobs.append(job) or [])
    words = ["--quick", "--variants", "plain", "micronet", "compiled-qat", "--out", "unused"]
    asked = qat_step.job_of(qat_step.parse(words))
    found = qat_step.measure(asked, with_layers=True)
    assert [(job.part, job.allocator, job.names) for job in jobs] == [
        ("steps", "default", asked.names),
        ("steps", "warm", asked.names),
        ("memory", "warm", ["plain"]),
        ("memory", "warm", ["micronet"]),
        ("layers", "warm", []),
    ]
    assert [(row.variant, row.note) for row in found.memory] == [
        ("compiled-qat", qat_step.NOT_COMPILED)
    ]


def prepared(command, env, **options):
    """Start the command's processes where torch is there already, the one for layers as it is."""
    if '"part": "layers"' in command[4]:
        return subprocess.run(command, env=env, **options)
    assert command[1:3] == ["-m", qat_step.__name__]
    process = prepared_processes.context().Process(target=qat_step.main, args=(command[3:],))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_the_command_measures_all_parts_and_ends_with_one_line(tmp_path, monkeypatch, capfd):
    # A process for the steps, one for each memory, and one for the layers.
    monkeypatch.setattr(qat_step, "subprocess", SimpleNamespace(run=prepared))
    monkeypatch.setattr(qat_step, "ALLOCATORS", {"warm": qat_step.ALLOCATORS["warm"]})
    words = ["--quick", "--arch", "efficientnet-micro", "--threads", "1", "--out", str(tmp_path)]
    # The others differ in what they train alone, which they do above.
    variants = ["plain", "plain-silu", "micronet", "micronet-recompute", "compiled-qat"]
    assert qat_step.main([*words, "--variants", *variants]) == 0
    output = capfd.readouterr().out
    *_, last = output.splitlines()
    assert output.count("RESULT") == 1 and last.startswith("RESULT ")
    summary = json.loads(last.removeprefix("RESULT "))
    assert list(summary) == FIGURES
    missing = [name for name, value in summary.items() if value is None]
    assert missing == ["step_vs_compiled", "step_vs_compiled_qat", "saved_8_8", "saved_lsq"]
    assert all(value > 0 for value in summary.values() if value is not None)

    assert {path.name for path in tmp_path.iterdir()} == {"qat_step_cpu.md", "qat_step_cpu.json"}
    record = json.loads((tmp_path / "qat_step_cpu.json").read_text())
    assert record["summary"] == summary
    text = (tmp_path / "qat_step_cpu.md").read_text()
    assert record["machine"]["processor"] in text
    for part, field in (("steps", "seconds"), ("memory", "saved_mib"), ("memory", "peak_mib")):
        for row in record[part]:
            is_compiled = row["variant"].endswith("compiled") or row["variant"] == "compiled-qat"
            assert bool(row["note"]) == is_compiled == (row[field] is None)
            assert is_compiled or row[field] > 0
    assert all(row["ms"] > 0 and row["torch_ms"] > 0 for row in record["layers"])
    shares = [row["share_of_copy"] for row in record["layers"]]
    assert any(share is not None and share > 0 for share in shares)
