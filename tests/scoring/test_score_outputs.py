"""What the command prints and draws: tables, CSV, Markdown, pictures, comparisons; plans."""

import csv
import io
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from fractions import Fraction

import pytest
import safetensors.torch
import torch
from torch import nn

import micronet.score as score
from micronet.models import architectures
from micronet.scoring.network.plan_files import load_plan, plan_of
from micronet.scoring.waterfall import waterfall
from paths import ROOT

PLAN = ROOT / "schedules" / "efficientnet_b1_plan.yaml"
SMALL = """\
arch: resnet20
num_classes: 10
prune:
  end_epoch: 2
  groups: [{layers: ["layer*"], final_sparsity: 0.6}]
quantize:
  weights: {bits: 4}
  activations: {bits: 4}
  overrides: [{layers: [conv1, fc], weights: null, activations: null}]
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(SMALL)
    return path


def cli(capsys, *argv):
    code = score.main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def own_network(num_classes=3):
    """A user's network: `tests` finds it by its name."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, num_classes))


def test_the_plan_of_2019_under_the_official_rules(capsys):
    code, out, err = cli(capsys, PLAN, "--result", "37512/50000")
    assert (code, err) == (0, "")
    lines = dict(line.split(None, 1) for line in out.splitlines() if line)
    assert lines["network"] == f"efficientnet-b1 at 224x224, plan {PLAN}"
    assert lines["storage"].startswith("700057 (exact 700057.25), dense 7763160")
    assert lines["ops"].startswith("374151155.75, dense 1180597360")
    assert lines["score"] == "0.421245"
    assert lines["verdict"] == "37,512 of 50,000 correct, threshold 37,500: pass"
    assert lines["rules"] == "micronet, track imagenet, accumulator 32"


def test_plan_files_and_options_are_the_same_plan():
    options = plan_of(
        "efficientnet-b1",
        [str(ROOT / "schedules" / f"efficientnet_b1_{name}.yaml") for name in ("prune", "qat")],
        224,
    )
    written = load_plan(str(PLAN))
    rules = score.RULES["micronet"]
    first, second = (
        score.score_subject(score.from_plan(p, rules), rules) for p in (options, written)
    )
    assert first.stored == second.stored and first.executed == second.executed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: resnet20\nlayers: 3\n", "unknown key 'layers'"),
        ("arch: resnet20\nimage_size: 0\n", "image_size 0 is not at least 1"),
        ("arch: 20\n", "arch must be text, not 20"),
        ("arch: resnet20\nschedules: [none.yaml]\n", "cannot read schedule"),
        ("arch: resnet2\n", "there is no architecture 'resnet2'"),
        ("arch: [", "is not valid YAML"),
        ("- arch\n", "has no key 'arch'"),
    ],
)
def test_mistakes_in_plan_files(capsys, tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    code, out, err = cli(capsys, path)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_csv_holds_every_number_exactly(capsys, plan):
    _, out, _ = cli(capsys, plan, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    _, out, _ = cli(capsys, plan, "--json")
    record = json.loads(out)
    *layers, total = rows
    assert [row["layer"] for row in layers] == list(
        architectures.layers(architectures.create_model("resnet20", 10))
    )
    assert total["layer"] == "total"
    for name in ("storage", "operations", "multiplications", "additions", "score"):
        column = [Fraction(row[f"{name}_exact"]) for row in rows]
        assert sum(column[:-1]) == column[-1]
        assert all(
            abs(Fraction(row[name]) - value) <= Fraction(1, 2 * 10**6)
            for row, value in zip(rows, column, strict=True)
        )
    assert total["storage_exact"] == record["storage"]
    assert total["score_exact"] == record["score_exact"]
    assert [layer["layer"] for layer in record["layers"]] == [row["layer"] for row in rows]
    # 2304 weights, int(.6 * 2304) = 1382 of them zero; a mask is smaller than 4 bits each.
    row = next(row for row in rows if row["layer"] == "layer1.0.conv1")
    assert (row["weights"], row["nonzeros"], row["stored_as"]) == (
        "2304",
        "922",
        "bit mask, 4 bits",
    )
    assert (row["weight_bits"], row["input_bits"]) == ("4", "4")
    assert next(row for row in rows if row["layer"] == "fc")["weight_bits"] == "float"


def test_markdown_and_text_tables(capsys, plan):
    _, out, _ = cli(capsys, plan, "--markdown")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 20 + 1 and len({line.count("|") for line in table}) == 1
    _, out, _ = cli(capsys, plan, "--layers", "--accumulator", "proven")
    assert "16x16x3x3" in out and "worst case of the levels" in out
    assert "may be claimed at these widths only where the engine" in out
    _, out, _ = cli(capsys, plan, "--entries")
    assert "layer1.0.conv1 quantizer of weights" in out


def test_proofs_in_json(capsys, plan):
    _, out, _ = cli(capsys, plan, "--json", "--accumulator", "tree")
    record = json.loads(out)
    proofs = {proof["layer"]: proof for proof in record["accumulator_proofs"]}
    # 922 weights over 16 channels: 57 or 58 products of at most 225, 13050 < 2^14.
    assert proofs["layer1.0.conv1"]["bound"] == 58 * 225
    assert proofs["layer1.0.conv1"]["width"] == 15
    assert proofs["conv1"]["bound"] is None
    assert record["accumulator"] == "tree"


def test_waterfall(capsys, plan, tmp_path):
    path = tmp_path / "score.svg"
    code, _, _ = cli(capsys, plan, "--waterfall", path)
    svg = ET.fromstring(path.read_text())
    assert code == 0 and svg.tag.endswith("svg")
    bars = [e for e in svg.iter() if e.tag.endswith("rect")][1:]
    ends = [float(bar.get("x")) + float(bar.get("width")) for bar in bars]
    begins = [float(bar.get("x")) for bar in bars]
    # Each bar begins where the last ended, and the total is as long as all of them.
    for end, begin in zip(ends[:-2], begins[1:-1], strict=True):
        assert abs(end - begin) <= 0.011
    assert abs(ends[-1] - ends[-2]) <= 0.02 and begins[-1] == begins[0]
    rules = score.RULES["micronet"]
    result = score.score_subject(score.from_plan(load_plan(str(plan)), rules), rules)
    assert waterfall([result]) == path.read_text() == waterfall([result])
    assert f"{float(result.score):.6f}" in path.read_text()
    code, _, err = cli(capsys, plan, "--waterfall", tmp_path / "no" / "file.svg")
    assert code == 2 and "cannot write" in err


def test_comparison(capsys, plan, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("weights: {bits: 4}", "weights: {bits: 2.4}"))
    _, out, _ = cli(capsys, "--compare", plan, other, "--json")
    first, second = json.loads(out)
    change = Fraction(second["score_exact"]) - Fraction(first["score_exact"])
    assert Fraction(second["change"]) == change < 0 and first["change"] == "0"
    assert sum(map(Fraction, first["by_kind"].values())) == Fraction(first["score_exact"])
    for form in ("--csv", "--markdown"):
        _, out, _ = cli(capsys, "--compare", plan, other, form)
        assert str(other) in out
    svg = tmp_path / "both.svg"
    _, out, _ = cli(capsys, "--compare", plan, other, "--waterfall", svg)
    assert "stored weights" in out and str(other) in svg.read_text()


def test_a_users_own_network(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    argv = ["--arch", "own:own_network", "--image-size", 8, "--num-classes", 7, "--json"]
    code, out, _ = cli(capsys, *argv)
    record = json.loads(out)
    # 108 weights, 4 biases; 144 x 7 weights, 7 biases; 16 bits each, as nothing is quantized.
    assert code == 0
    assert Fraction(record["storage"]) == Fraction(108 + 4 + 144 * 7 + 7, 2)
    code, _, err = cli(capsys, *argv[:2], "--image-size", 9)
    assert code == 2 and "does not take an image of 3x9x9" in err


def test_weights_of_another_program(capsys, tmp_path, plan):
    model = architectures.create_model("resnet20", 10)
    layer = architectures.layers(model)["layer1.0.conv1"]
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-7, 8, layer.weight.shape, generator=generator)
    layer.weight.data.copy_(codes * 0.01)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    claim = tmp_path / "claim.yaml"
    claim.write_text(
        "arch: resnet20\nnum_classes: 10\nquantize:\n  weights: null\n  activations: null\n"
        "  overrides: [{layers: [layer1.0.conv1], weights: {bits: 4}}]\n"
    )
    code, out, err = cli(capsys, claim, "--weights", path, "--csv")
    assert (code, err) == (0, "")
    row = next(r for r in csv.DictReader(io.StringIO(out)) if r["layer"] == "layer1.0.conv1")
    assert row["nonzeros"] == str(int((codes != 0).sum()))
    layer.weight.data[3] += 0.001
    safetensors.torch.save_file(model.state_dict(), path)
    code, out, err = cli(capsys, claim, "--weights", path)
    assert (code, out) == (2, "")
    assert (
        "layer 'layer1.0.conv1' is claimed to have weights of 4 bits, but output channel 3" in err
    )


@pytest.mark.slow
def test_the_largest_network_is_scored_at_once():
    rules = score.RULES["micronet"]
    begin = time.process_time()
    for accumulator in ("32", "tree"):
        subject = score.from_plan(plan_of("efficientnet-b7", image_size=600), rules, accumulator)
        result = score.score_subject(subject, rules)
        result.rows()
    # Two of them: a network takes less than 5 s on one core of two.
    assert time.process_time() - begin < 10
    assert next(subject.model.parameters()).is_meta
    # 66 M parameters, 37 G multiply-accumulates in the paper.
    assert round(result.weights / 1e6) == 66
    work = sum(c.dense for c in result.executed if c.kind == "multiplications")
    assert work // 10**9 == 37


# Its own high-water mark: that of a forked child would begin with this process's pages.
PEAK = """\
import runpy, sys
from pathlib import Path
try:
    runpy.run_module("micronet.score", run_name="__main__")
finally:
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(l for l in lines if l.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


@pytest.mark.slow
def test_scoring_the_largest_network_takes_little_memory():
    command = [sys.executable, "-c", PEAK, "--arch", "efficientnet-b7"]
    command += ["--image-size", "600", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and json.loads(done.stdout)["image_size"] == 600
    assert int(done.stderr.split()[-1]) < 2 * 2**20  # KiB
