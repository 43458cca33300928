"""Runs whose bits change and whose weights are frozen: they log it, stop, resume and reload."""

import csv
import json
import signal

import pytest
import torch

import micronet.score as score
from micronet.models import architectures
from micronet.quantization.layers import quantized_layers
from micronet.report import main as report
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training.signals import Stopped
from micronet.training.steps.epoch import Epoch
from shared_runs import THREE_STEPS, qat_command

LEARNED = {"bits": 4, "step": "learned"}
RECIPE = {
    "train": {"epochs": 5, "lr": 0.03, "nesterov": True, "model_ema": 0.9},
    "prune": {"end_epoch": 2, "groups": [{"layers": ["layer*"], "final_sparsity": 0.5}]},
    "quantize": {
        "weights": {"bits": 4},
        "activations": {"bits": 4},
        "start_epoch": 1,
        "overrides": [
            {"layers": ["conv1"], "weights": None, "activations": None},
            {"layers": ["layer2.*"], "weights": LEARNED, "activations": LEARNED},
        ],
        "oscillations": {"momentum": 0.1, "freeze": [0.09, 0.05], "dampen": [0, 0.01]},
        "progressive": [
            {"epoch": 1, "weights": 8, "activations": 8},
            {"epoch": 2, "activations": 4},
            {"epoch": 3, "weights": 4},
        ],
    },
}
# Of the newest checkpoint's weights and inputs, after each epoch.
BITS = [None, (8, 8), (8, 4), (4, 4), (4, 4)]


@pytest.fixture(scope="module")
def command(shallow, tmp_path_factory):
    return qat_command(shallow, tmp_path_factory.mktemp("recipe"), RECIPE, THREE_STEPS)


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "qat"
    assert main([*command, "--out", str(out), "--keep", "5"]) == 0
    return out


def bits_of(model):
    return {
        (layer.bits.weight_bits, layer.bits.activation_bits) for _, layer in quantized_layers(model)
    }


@pytest.mark.slow
def test_a_checkpoint_has_the_bits_that_its_weights_were_trained_with(whole):
    for epoch, bits in enumerate(BITS, 1):
        loaded = directory.load(whole / f"epoch-{epoch:04}.safetensors")
        assert bits_of(loaded.model) == ({bits} if bits else set())
        images = torch.randn(16, loaded.meta["channels"], 8, 8)
        assert loaded.model(images).isfinite().all()
        score_of = score.main([str(whole / f"epoch-{epoch:04}.safetensors"), "--json"])
        assert score_of == 0


def test_the_log_says_bits_and_oscillations(whole):
    records = directory.RunDirectory(whole).metrics()
    bits = [(r["weight_bits"], r["input_bits"]) for r in records]
    assert bits == [(None, None), *BITS[1:]]
    assert [r["at_target"] for r in records] == [False, False, False, True, True]
    assert records[0]["oscillating"] == records[0]["frozen"] == 0
    # Bits change at the start of the fourth epoch, so that nothing is frozen by then.
    assert records[-1]["frozen"] > 0 and any(r["oscillating"] > 0 for r in records)
    with open(directory.RunDirectory(whole).summary_file) as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frozen"]) for row in rows] == [r["frozen"] for r in records]


def test_best_has_the_final_precision(whole):
    assert bits_of(directory.load(whole).model) == {(4, 4)}


def test_the_report_draws_both(whole, capsys):
    assert report([str(whole)]) == 0
    text = (whole / "report.html").read_text()
    for title in ("Bits", "Oscillating weights", "frozen"):
        assert title in text


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 7, 11, 14])
def test_a_stopped_run_repeats_the_undisturbed_one_bit_for_bit(
    command, whole, tmp_path, monkeypatch, steps
):
    """Three steps an epoch; the seventh is the first with other bits."""
    out, real, taken = tmp_path / "stopped", torch.optim.SGD.step, []

    def step(self, *args, **kwargs):
        taken.append(0)
        if len(taken) == steps:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        assert main([*command, "--out", str(out), "--checkpoint-every", "1"]) == 130
    continued(out, whole)


def continued(out, whole):
    """Hold a run that was stopped to what the undisturbed one leaves."""
    assert main(["qat", "--out", str(out), "--resume", "--threads", "1"]) == 0
    for name in ("last", "best"):
        one, two = (checkpoint.load(run / f"{name}.safetensors") for run in (whole, out))
        assert one.tensors.keys() == two.tensors.keys()
        assert [k for k in one.tensors if not torch.equal(one.tensors[k], two.tensors[k])] == []
        assert one.meta["bits"] == two.meta["bits"]
    kinds = {"integer", "direction", "frequency", "average", "frozen"}
    found = {k.split("/")[1] for k in one.tensors if k.startswith("oscillation/")}
    assert found == kinds and "oscillation/frozen/fc" in one.tensors


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_stopped_between_a_change_of_bits_and_the_next_step_goes_on(
    command, whole, tmp_path, monkeypatch, epoch
):
    out, real = tmp_path / "stopped", Epoch.train

    def train(self, stop):
        if self._epoch == epoch:
            raise Stopped(signal.SIGTERM)
        return real(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Epoch, "train", train)
        assert main([*command, "--out", str(out)]) == 128 + signal.SIGTERM
    assert bits_of(directory.load(out / "last.safetensors").model) == {BITS[epoch]}
    continued(out, whole)


def test_a_network_at_another_stage_is_not_begun_with(command, whole, tmp_path, capsys):
    start = [a if a != command[2] else str(whole) for a in command]
    capsys.readouterr()
    assert main([*start, "--out", str(tmp_path / "again")]) == 2
    assert "already quantized at other bits or steps" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_the_preview_says_the_bits_of_an_epoch(command, capsys):
    capsys.readouterr()
    assert main(["schedule", command[4], "--arch", "resnet8"]) == 0
    rows = capsys.readouterr().out.strip().splitlines()[-5:]
    assert [" ".join(row.split()[-3:-1]) for row in rows[1:]] == [
        "8/8 bits",
        "8/4 bits",
        "4/4 bits",
        "4/4 bits",
    ]


def test_the_weights_of_a_run_are_those_of_a_float_network(whole):
    model = architectures.create_model("resnet8", 10)
    architectures.load_weights(model, str(whole / "last.safetensors"))
    meta = json.loads((whole / "last.json").read_text())
    assert {bits["weight_bits"] for bits in meta["bits"].values()} == {4.0, None}
