"""The scripts in examples/ do what their page says, on tiny data."""

import re
import runpy

import pytest

from paths import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def run(name, *words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_script_is_listed_and_tested():
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    tests = set(
        re.findall(r'run\(\s*"(\w+\.py)"', (ROOT / "tests/docs/test_examples.py").read_text())
    )
    assert listed == scripts == tests


@pytest.mark.slow
def test_a_torchvision_network_is_quantized(run):
    out = run(
        "quantize_torchvision.py", "--epochs", "1", "--image-size", "16", "--batch-size", "256"
    )
    counts = re.findall(r"^(float32|4/4 bits): (\d+) of (\d+)$", out, re.MULTILINE)
    assert [name for name, _, _ in counts] == ["float32", "4/4 bits"]
    assert all(0 <= int(correct) <= int(total) == 359 for _, correct, total in counts)


def test_a_network_is_scored(run):
    out = run("score_network.py", "--arch", "squeezenet1_1", "--image-size", "64")
    scores = [float(score) for score in re.findall(r"score ([\d.]+)$", out, re.MULTILINE)]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_digits_are_pruned_and_quantized(run, tmp_path):
    # The demo's pruning ends in its sixth epoch.
    tiny = ["--epochs", "6", "--image-size", "8", "--batch-size", "700", "--threads", "1"]
    out = run("prune_and_quantize_digits.py", "--out", str(tmp_path / "runs"), *tiny)
    assert "test set" in out and re.search(r"^score +0\.\d+$", out, re.MULTILINE)
    assert all((tmp_path / "runs" / stage / "best.json").exists() for stage in ("prune", "qat"))


def test_a_hook_sees_a_tensor_that_waits(run):
    out = run("lazy_tensor.py")
    assert "waits for its reader: False" not in out and out.count("waits for its reader: True") >= 4
    assert "looking changed nothing: True" in out
    assert "zeroing the ReLU's output changed the result: True" in out
