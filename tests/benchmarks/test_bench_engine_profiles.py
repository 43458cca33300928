"""Profiles of the engine and of LiteRT: what is read from them, and what counts."""

import json

import pytest

from benchmarks.engine import process, profile_page, profiles
from benchmarks.engine.profiles import Step
from paths import ROOT

MACS = {"stem": 100, "block.depthwise": 20, "block.project": 300, "fc": 50}
RESULTS = ROOT / "benchmarks" / "results"


def test_a_title_tells_the_layer_and_its_kind():
    steps = [
        profiles.our_step(title, 2.0, MACS, "stem")
        for title in (
            "nodes[0] (input)",
            "nodes[1] (conv) stem",
            "nodes[2] (quantize) block.depthwise.input",
            "nodes[3] (conv) block.depthwise",
            "nodes[5] (conv) block.project",
            "nodes[9] (linear) fc",
        )
    ]
    kinds = ["input", "stem", "quantize", "depthwise conv", "other conv", "linear"]
    assert [step.kind for step in steps] == kinds
    assert [step.multiply_adds for step in steps] == [0, 100, 0, 20, 300, 50]
    assert steps[4].gmac_per_s == 300 / 2.0 / 1e3 and steps[0].gmac_per_s is None
    assert profiles.share(steps[4], 0.3) == pytest.approx(0.5)
    assert profiles.share(steps[4], None) is None and profiles.share(steps[0], 1.0) is None


def test_layers_that_are_one_step_add_up():
    step = profiles.our_step("nodes[3] (conv) block.depthwise block.project", 1.0, MACS, "stem")
    assert step.multiply_adds == 320


def test_another_form_of_title_is_refused():
    with pytest.raises(ValueError, match=r"step 'conv1' is not of the form nodes\[N\]"):
        profiles.our_step("conv1", 1.0, MACS, "stem")


def test_the_middle_half_of_the_runs_of_each_step_counts():
    runs = [[1.0, 2.0], [9.0, 90.0], [3.0, 2.0], [5.0, 3.0]]
    assert profiles.middle(runs) == [4.0, 2.5]
    assert profiles.middle([[5.0, 1.0]]) == [5.0, 1.0]
    assert profiles.middle([[5.0], [1.0], [6.0]]) == [4.0]


def test_runs_are_told_apart_from_their_sums():
    assert profiles.differences([[1.0, 2.0], [1.5, 4.0], [2.5, 4.0]]) == [
        [1.0, 2.0],
        [0.5, 2.0],
        [1.0, 0.0],
    ]


def test_our_steps_are_in_microseconds():
    titles = ["nodes[1] (conv) stem", "nodes[3] (conv) block.depthwise"]
    steps = profiles.our_steps(titles, [[1e-6, 2e-6], [3e-6, 4e-6]], MACS)
    assert [(step.kind, step.microseconds) for step in steps] == [
        ("stem", pytest.approx(2.0)),
        ("depthwise conv", pytest.approx(3.0)),
    ]


def litert_run(*times):
    names = (
        "Convolution (NHWC, QC8) IGEMM",
        "Invalid Unary Op",
        "Convolution (NHWC, QC8) DWConv",
        "Fully Connected (NC, QS8, QC8W) GEMM",
        "Fully Connected (NC, QS8, QC8W) GEMM",
    )
    return [[node, names[node], time] for node, time in enumerate(times)]


def test_operators_of_litert_get_the_names_of_layers():
    runs = [litert_run(4, 1, 5, 6, time) for time in (2, 1, 3, 60)]
    steps = profiles.litert_steps(runs, MACS)
    assert [(step.title, step.microseconds, step.multiply_adds) for step in steps] == [
        ("stem", 4, 100),
        ("Unary Op by table", 1, 0),
        ("block.depthwise", 5, 20),
        ("block.project", 6, 300),
        ("fc", 2.5, 50),
    ]
    assert profiles.by_kind(steps)[0] == ("Fully Connected (NC, QS8, QC8W) GEMM", 2, 8.5)


def test_of_another_network_operators_have_no_layers():
    steps = profiles.litert_steps([litert_run(4, 1, 5, 6, 2)], {"stem": 1, "fc": 2})
    assert not any(step.multiply_adds for step in steps)


def test_a_run_with_other_events_does_not_count():
    runs = [litert_run(4, 1, 5, 6, 2), litert_run(9, 9), litert_run(4, 1, 5, 6, 2)]
    assert [step.microseconds for step in profiles.litert_steps(runs, MACS)] == [4, 1, 5, 6, 2]


def test_without_litert_and_peak_the_page_says_so():
    steps = [Step("nodes[1] (conv) stem", "stem", 2.0, 100)]
    profile = profile_page.Profile("tiny", "4/4", steps, [], "LiteRT is not installed", {})
    page = profile_page.markdown(profile, {})
    assert "LiteRT is not installed" in page and "was not measured: no compiler" in page
    assert "| stem | 0.00 | 2.0 | 0.1 |  |  |  |  |" in page
    with_peak = profile_page.Profile("tiny", "4/4", steps, [], "", {"vpdpbusd": 0.1})
    assert "| stem | 0.00 | 2.0 | 0.1 | 50 % |  |  |  |" in profile_page.markdown(with_peak, {})


def test_the_committed_page_is_that_of_its_record():
    record = json.loads((RESULTS / "engine_profile.json").read_text())
    machine = record.pop("machine")
    for side in ("ours", "litert"):
        record[side] = [Step(**step) for step in record[side]]
    profile = profile_page.Profile(**record)
    assert profile_page.markdown(profile, machine) == (RESULTS / "engine_profile.md").read_text()
    layers = [step for step in profile.litert if step.multiply_adds]
    done = sum(step.multiply_adds for step in profile.ours)
    assert done == sum(step.multiply_adds for step in layers) > 5e8
    # Nothing is beyond what the core can do.
    peak = max(profile.peaks.values())
    assert all((profiles.share(step, peak) or 0) < 1 for step in (*profile.ours, *layers))


def test_what_the_compiler_tells_of_this_machine():
    peaks = process.peaks()
    assert all(rate > 1 for rate in peaks.values())
    if "vpdpbusd" in peaks:
        # Four products a lane, where a float has one.
        assert peaks["vpdpbusd"] > 2 * peaks["float32 fma"]
