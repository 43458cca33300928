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
        "quantize_torchvision.py", "--epochs", "1", "--image-size", "8", "--batch-size", "700"
    )
    counts = re.findall(r"^(float32|4/4 bits): (\d+) of (\d+)$", out, re.MULTILINE)
    assert [name for name, _, _ in counts] == ["float32", "4/4 bits"]
    assert all(0 <= int(correct) <= int(total) == 359 for _, correct, total in counts)


def scores(out):
    """Quality and score in float, and after compression."""
    found = re.findall(r"^(\S+).*: \w+ ([\d.]+), score ([\d.]+)$", out, re.MULTILINE)
    assert [name for name, _, _ in found] == ["float32", "4/4"]
    assert all(0 <= float(quality) <= 1 for _, quality, _ in found)
    return [float(score) for _, _, score in found]


@pytest.mark.slow
def test_shapes_are_segmented(run):
    out = run("segment_shapes.py", "--quick", "--size", "32")
    before, after = scores(out)
    assert after < before / 3
    assert "50% of the pruned" in out and "it computes the same: True" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_shapes_are_detected(run, arch):
    out = run("detect_shapes.py", "--quick", "--size", "64", "--arch", arch)
    before, after = scores(out)
    assert after < 0.7 * before
    assert "50% of the pruned" in out and "it finds the same: True" in out


# Pruning and quantization have begun after two epochs; a third learns most digits.
THREE = ("--epochs", "3")


def check_digits(out, folder):
    """Most are learned, and the network is there."""
    right, total = map(int, re.search(r"^(\d+) of (\d+) images", out, re.MULTILINE).groups())
    assert right > 0.5 * total and "50.0% of the weights of" in out
    assert (folder / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_network_is_trained_in_a_loop_of_accelerate(run, tmp_path):
    pytest.importorskip("accelerate")
    check_digits(run("train_with_accelerate.py", *THREE), tmp_path / "runs/accelerate")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's, about loaders and loggers
def test_a_network_is_trained_in_lightning(run, tmp_path):
    pytest.importorskip("lightning")
    check_digits(run("train_with_lightning.py", *THREE), tmp_path / "runs/lightning")


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
