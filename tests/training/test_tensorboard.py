"""What shows a run while it trains: TensorBoard's events and the line of progress."""

import importlib.util
import io
import re

import pytest
import torch
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from micronet.models import architectures
from micronet.runs import directory
from micronet.train import main
from micronet.utils import progress

SMALL = ["--image-size", "8", "--batch-size", "128", "--threads", "1"]
FIT = ["fit", "--arch", "resnet8", "--epochs", "3", "--lr", "0.1", *SMALL]
QUANTIZE = {
    "weights": {"bits": 4},
    "activations": {"bits": 4},
    "overrides": [
        {"layers": ["fc"], "weights": {"bits": 4, "step": "learned"}},
        {"layers": ["layer3.*"], "activations": {"bits": 4, "step": "learned"}},
    ],
}


def events(run):
    """All events of a run as TensorBoard reads them, purged ones left out."""
    found = EventAccumulator(
        str(run / "tensorboard"), purge_orphaned_data=True, size_guidance={"scalars": 0}
    )
    return found.Reload()


@pytest.fixture(scope="module")
def stopped_and_resumed(resnet8, tmp_path_factory):
    """A run of three epochs of ten steps, stopped in its third and continued from its second."""
    out = tmp_path_factory.mktemp("runs") / "fit"
    real, taken = torch.optim.SGD.step, []

    def step(self, *args, **kwargs):
        taken.append(0)
        if len(taken) == 25:
            raise MemoryError
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        with pytest.raises(MemoryError):
            main([*FIT, "--out", str(out), "--tensorboard", "--checkpoint-every", "7"])
    assert main(["fit", "--out", str(out), "--tensorboard", "--resume", "--threads", "1"]) == 0
    return out


def test_events_hold_the_log_of_every_epoch_once(stopped_and_resumed):
    records, found = (
        directory.RunDirectory(stopped_and_resumed).metrics(),
        events(stopped_and_resumed),
    )
    for tag, key in (("loss/train", "train_loss"), ("top1/validation", "validation_top1")):
        curve = found.Scalars(tag)
        assert [event.value for event in curve] == pytest.approx([r[key] for r in records])
    per_epoch = found.Scalars("loss/train")[0].step
    assert [event.step for event in found.Scalars("loss/train")] == [
        per_epoch * epoch for epoch in (1, 2, 3)
    ]
    inner = [event.step for event in found.Scalars("step/loss")]
    assert inner == [s for s in range(1, 3 * per_epoch + 1) if s % 20 == 0]


def test_events_hold_every_layer(stopped_and_resumed):
    found = events(stopped_and_resumed)
    names = set(architectures.layers(directory.load(stopped_and_resumed).model))
    tags = found.Tags()
    assert {f"weights/{name}" for name in names} == set(tags["histograms"])
    assert {f"sparsity/{name}" for name in names} <= set(tags["scalars"])
    weight = directory.load(stopped_and_resumed / "last.safetensors").model.conv1.weight
    last = found.Histograms("weights/conv1")[-1].histogram_value
    assert last.num == weight.numel()
    assert last.min == pytest.approx(float(weight.detach().min()))


@pytest.mark.slow
def test_events_of_a_quantized_run_hold_ranges_and_steps(stopped_and_resumed, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "qat"
    recipe.write_text(yaml.safe_dump({"train": {"epochs": 1, "lr": 0.01}, "quantize": QUANTIZE}))
    command = ["qat", "--from", str(stopped_and_resumed), "--schedule", str(recipe), *SMALL]
    assert main([*command, "--out", str(out), "--tensorboard"]) == 0
    found, model = events(out), directory.load(out / "last.safetensors").model
    span = model.conv1.input_quantizer.range
    assert found.Scalars("input low/conv1")[0].value == pytest.approx(float(span[0]))
    assert found.Scalars("input high/conv1")[0].value == pytest.approx(float(span[1]))
    (name,) = [n for n in found.Tags()["scalars"] if n.startswith("input step/layer3.0.conv1")]
    step = model.layer3[0].conv1.input_quantizer.step_size
    assert found.Scalars(name)[0].value == pytest.approx(float(step.detach()))


def test_without_the_package_nothing_begins(resnet8, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*FIT, "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert "pip install 'micronet[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_lines_say_what_is_just_now(resnet8, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    assert main([*FIT, "--out", str(tmp_path / "run")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " step " in line]
    pattern = (
        r"fit epoch \d/3 step \d+/\d+: loss (\d+\.\d{4}), top-1 (\d+\.\d\d), sparsity 0\.0 %, "
        r"([\d,]+) images/s, (\d+\.\d\d) GiB, run \d+:\d\d:\d\d left"
    )
    found = [re.fullmatch(pattern, line) for line in lines]
    assert len(found) > 20 and all(found)
    metrics = directory.RunDirectory(tmp_path / "run").metrics()
    assert float(found[-1][1]) == pytest.approx(metrics[-1]["train_loss"], abs=1e-4)
    assert float(found[-1][2]) == pytest.approx(metrics[-1]["train_top1"], abs=0.01)
    assert float(found[-1][4]) > 0.05
    assert lines[-1].endswith("run 0:00:00 left")


def test_bar_shows_the_same_and_yields_all(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    running = progress.Running(1.25, 50.0, 0.305, 1234.0, 3661.4)
    items = progress._bar(range(50), 50, "fit epoch 1/3", lambda: running, console)
    assert list(items) == list(range(50))
    shown = screen.getvalue()
    assert "fit epoch 1/3" in shown and "50/50" in shown
    assert "loss 1.2500, top-1 50.00, sparsity 30.5 %, 1,234 images/s" in shown
    assert "run 1:01:01 left" in shown


def test_memory_is_what_the_process_held_at_most():
    before, held = progress.memory(), []
    # Less may be held now than once was.
    while progress.memory() < before + 2**25 and len(held) * 2**25 < before + 2**28:
        held.append(torch.ones(2**23))
    most = progress.memory()
    assert most >= before + 2**25
    held.clear()
    assert progress.memory() >= most
