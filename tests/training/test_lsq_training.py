"""Runs with learned steps: they train, stop, resume, reload, and answer to mistakes."""

import copy
import json
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import nn

import micronet.score as score
from micronet.compression.compression import Compression
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import loop, optimizer
from shared_runs import SMALL

QUANTIZE = {
    "weights": {"bits": 4, "step": "learned"},
    "activations": {"bits": 4, "step": "learned"},
    "overrides": [
        {"layers": ["conv1"], "weights": None, "activations": None},
        {"layers": ["fc"], "weights": {"bits": 2.4, "step": "learned"}, "activations": None},
        {"layers": ["layer3.*"], "activations": {"bits": 4, "decay": 0.9}},
    ],
}


def write(path, **sections):
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.fixture(scope="module")
def command(shallow, tmp_path_factory):
    """Prune in two epochs; quantize with learned steps from the second of four on."""
    groups = [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.5}]
    schedule = write(
        tmp_path_factory.mktemp("recipe") / "recipe.yaml",
        train={"epochs": 4, "lr": 0.02, "weight_decay": 1e-4, "nesterov": True},
        prune={"end_epoch": 2, "groups": groups},
        quantize={**QUANTIZE, "start_epoch": 1},
    )
    return ["qat", "--from", str(shallow), "--schedule", schedule, *SMALL]


class Whole(NamedTuple):
    """An undisturbed run: its directory, its last network, and its steps as they started."""

    out: object
    model: nn.Module
    started: dict


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "qat"
    began, ended = {}, []
    begin, train = Compression.begin_epoch, loop.train

    def note_steps(self, epoch, optimizer):
        begin(self, epoch, optimizer)
        began[epoch] = copy.deepcopy(quantize.learned_steps(self.model))

    def note_state(*args):
        ended.append(train(*args))
        return ended[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compression, "begin_epoch", note_steps)
        patch.setattr(loop, "train", note_state)
        assert main([*command, "--out", str(out)]) == 0
    assert began[0] == {}
    return Whole(out, ended[0].model, began[1])


def tensors(run, name="last"):
    return checkpoint.load(run / f"{name}.safetensors").tensors


def test_loss_falls_and_every_step_learns(whole):
    losses = [record["train_loss"] for record in directory.RunDirectory(whole.out).metrics()]
    assert losses[1] > losses[2] > losses[3]
    steps = quantize.learned_steps(whole.model)
    # Six convolutions and the classifier; the inputs of all but the last two convolutions.
    assert len(steps) == 7 + 4 and steps.keys() == whole.started.keys()
    assert all(not torch.equal(steps[name], whole.started[name]) for name in steps)


def test_reloaded_network_answers_the_same_bit_for_bit(whole):
    loaded = directory.load(whole.out / "last.safetensors")
    images = torch.randn(64, loaded.meta["channels"], 16, 16)
    answers = [optimizer.to_device(m).eval()(images) for m in (whole.model, loaded.model)]
    assert torch.equal(*answers) and answers[0].isfinite().all()


@pytest.mark.slow
def test_resume_repeats_the_undisturbed_run_bit_for_bit(command, whole, tmp_path, monkeypatch):
    stopped = tmp_path / "stopped"
    original = loop.Epoch

    def one_epoch(state, *rest):
        if state.epoch > one_epoch.begun:
            raise KeyboardInterrupt
        return original(state, *rest)

    monkeypatch.setattr(loop, "Epoch", one_epoch)
    for one_epoch.begun in range(3):
        resume = ["--resume"] if one_epoch.begun else []
        assert main([*command, "--out", str(stopped), *resume]) == 130
    monkeypatch.setattr(loop, "Epoch", original)
    assert main(["qat", "--out", str(stopped), "--resume", "--threads", "1"]) == 0
    for name in ("last", "best"):
        one, two = tensors(whole.out, name), tensors(stopped, name)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
        momenta = {key for key in one if key.startswith("momentum/")}
        assert "momentum/fc.weight_step" in momenta
        assert "momentum/layer1.0.conv1.input_quantizer.step_size" in momenta


def test_run_is_scored_and_evaluated(whole, capsys):
    capsys.readouterr()
    assert score.main([str(whole.out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    pruned = sum(
        layer.weight.numel() // 2
        for name, layer in architectures.layers(whole.model).items()
        if name.startswith("layer")
    )
    assert record["weights"] - record["weights_nonzero"] == pruned
    assert main(["eval", str(whole.out), "--threads", "1"]) == 0


def test_float_network_takes_the_master_weights(whole):
    model = architectures.create_model("resnet8", 10)
    architectures.load_weights(model, str(whole.out / "last.safetensors"))
    trained = architectures.layers(whole.model)["layer1.0.conv1"].weight
    assert torch.equal(architectures.layers(model)["layer1.0.conv1"].weight, trained)


def one_sentence(capsys, *parts):
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message, message
    for part in parts:
        assert part in message, (part, message)


@pytest.mark.parametrize("value", [-0.5, 0.0, float("nan"), float("inf"), 1e-39])
def test_step_that_rounds_nothing_is_an_error_and_is_not_saved(
    command, tmp_path, capsys, monkeypatch, value
):
    out, real, calls = tmp_path / "run", torch.optim.SGD.step, iter(range(100))

    def broken(self, *args, **kwargs):
        real(self, *args, **kwargs)
        # Six steps an epoch; the first quantized epoch is the second.
        if next(calls) == 8:
            self.param_groups[1]["params"][3].detach().fill_(value)

    monkeypatch.setattr(torch.optim.SGD, "step", broken)
    assert main([*command, "--out", str(out)]) == 2
    parts = ["the input of layer 'layer1.0.conv2'", str(torch.tensor(value).item())]
    one_sentence(capsys, *parts, "epoch 2", "last.safetensors")
    assert checkpoint.load(out / "last.safetensors").meta["epoch"] == 1


def test_layer_whose_input_is_not_finite_is_named(command, tmp_path, capsys, monkeypatch):
    real, epochs = torch.nn.functional.relu, []
    begin = Compression.begin_epoch

    def relu(x, *args, **kwargs):
        y = real(x, *args, **kwargs)
        return y * torch.nan if x.shape[1] == 32 and 2 in epochs else y

    def note_epoch(self, epoch, optimizer):
        epochs.append(epoch)
        begin(self, epoch, optimizer)

    monkeypatch.setattr(torch.nn.functional, "relu", relu)
    monkeypatch.setattr(Compression, "begin_epoch", note_epoch)
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    one_sentence(capsys, "loss is nan", "epoch 3, step 1", "the input of layer 'layer2.0.conv2'")


def test_a_run_with_other_steps_is_not_continued(command, shallow, tmp_path, capsys):
    first = tmp_path / "first"
    ranges = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    steps = {**ranges, "weights": {"bits": 4, "step": "learned"}}
    train = {"epochs": 1, "lr": 0.01}
    schedule = write(tmp_path / "ranges.yaml", train=train, quantize=ranges)
    start = ["qat", "--from", str(shallow), "--schedule", schedule, "--out", str(first)]
    assert main([*start, *SMALL]) == 0
    schedule = write(tmp_path / "steps.yaml", train=train, quantize=steps)
    start = ["qat", "--from", str(first), "--schedule", schedule, "--out", str(tmp_path / "b")]
    assert main([*start, *SMALL]) == 2
    one_sentence(capsys, "steps.yaml", "other bits or steps")


@pytest.mark.parametrize(
    "change,parts",
    [
        ({"weights": {"bits": 4, "step": "learnt"}}, ["quantize.weights.step 'learnt'"]),
        ({"activations": {"bits": 4, "step": 0.1}}, ["quantize.activations.step", "0.1"]),
        ({"weights": {"bits": 1, "step": "learned"}}, ["quantize.weights.bits 1"]),
    ],
)
def test_mistaken_step_is_one_sentence_and_exit_code_2(shallow, tmp_path, capsys, change, parts):
    schedule = write(tmp_path / "steps.yaml", quantize={**QUANTIZE, **change})
    start = ["qat", "--from", str(shallow), "--schedule", schedule, "--out", str(tmp_path / "run")]
    assert main([*start, *SMALL]) == 2
    one_sentence(capsys, "steps.yaml", *parts)
    assert not (tmp_path / "run").exists()
